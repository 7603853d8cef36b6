module github.com/pkid/pkid/bench

go 1.26.0

replace github.com/pkid/pkid => ../

require (
	github.com/go-jose/go-jose/v4 v4.1.8
	github.com/pkid/pkid v0.0.0
	go.etcd.io/bbolt v1.5.0
	golang.org/x/sync v0.24.0
)

require (
	github.com/stretchr/testify v1.12.1 // indirect
	golang.org/x/sys v0.49.0 // indirect
)

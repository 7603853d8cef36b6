package pkid

import (
	_ "github.com/getkin/kin-openapi/openapi3"
	_ "github.com/getkin/kin-openapi/openapi3filter"
	_ "github.com/go-jose/go-jose/v4"
	_ "github.com/gorilla/mux"
	_ "github.com/rogpeppe/go-internal/testscript"
	_ "github.com/smallstep/certificates/authority/policy"
	_ "github.com/smallstep/certificates/cas/softcas"
	_ "github.com/spf13/cobra"
	_ "go.etcd.io/bbolt"
	_ "go.step.sm/crypto/kms"
	_ "go.step.sm/crypto/kms/softkms"
	_ "go.step.sm/crypto/pemutil"
	_ "go.yaml.in/yaml/v3"
	_ "golang.org/x/term"
)

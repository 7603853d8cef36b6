package integration

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pkid/pkid/client"
	"github.com/pkid/pkid/internal/pgtest"
	"github.com/pkid/pkid/internal/pkitest"
)

// first writes the file of CRLs, without which the servers do not start.
func (f *crlFixture) first() {
	f.Helper()
	out, err := exec.CommandContext(f.Context(), f.pkictl, "crl", "sync", "--once", "--home", f.identity.Dir(), "--out", f.file).CombinedOutput()
	if err != nil {
		f.Fatalf("the first file: %v\n%s", err, out)
	}
}

func (f *crlFixture) await(network, addr string) {
	f.Helper()
	pkitest.Eventually(f, 20*time.Second, func() error {
		c, err := net.Dial(network, addr)
		if err == nil {
			c.Close()
		}
		return err
	})
}

var nginxCRL = crlServer{
	name: "nginx",
	start: func(f *crlFixture) []string {
		nginx := pkitest.Need(f, "nginx")
		f.first()
		conf := f.configuration("nginx.conf", "http {", strings.ReplaceAll(`daemon off; pid DIR/nginx.pid; error_log stderr notice;
			http { access_log off; client_body_temp_path DIR/body; proxy_temp_path DIR/proxy; fastcgi_temp_path DIR/fcgi;
			uwsgi_temp_path DIR/uwsgi; scgi_temp_path DIR/scgi;`, "DIR", f.dir))
		args := []string{"-p", f.dir, "-e", "stderr", "-c", conf}
		f.background(nil, nginx, args...)
		f.await("tcp", f.addr)
		return []string{"--exec", nginx + " " + strings.Join(args, " ") + " -s reload"}
	},
	connect: func(f *crlFixture, id *client.Identity) error { return f.get(id) },
	open:    func(f *crlFixture, id *client.Identity) func() error { return f.keepAlive(id) },
}

var haproxyCRL = crlServer{
	name: "haproxy",
	start: func(f *crlFixture) []string {
		haproxy := pkitest.Need(f, "haproxy")
		f.first()
		socket := filepath.Join(f.dir, "admin.sock")
		f.background(nil, haproxy, "-db", "-f", f.configuration("haproxy.cfg", "/run/haproxy/admin.sock", socket))
		f.await("unix", socket)
		f.await("tcp", f.addr)
		return []string{"--haproxy-socket", socket}
	},
	connect: func(f *crlFixture, id *client.Identity) error { return f.get(id) },
	open:    func(f *crlFixture, id *client.Identity) func() error { return f.keepAlive(id) },
}

var apacheCRL = crlServer{
	name: "apache",
	start: func(f *crlFixture) []string {
		apache := pkitest.Need(f, "apache2")
		f.first()
		site := f.configuration("apache.conf", "/var/www/html", f.dir)
		if err := os.WriteFile(filepath.Join(f.dir, "index.html"), []byte("hello\n"), 0o644); err != nil {
			f.Fatal(err)
		}
		var main strings.Builder
		fmt.Fprintf(&main, "ServerRoot %[1]s\nServerName localhost\nPidFile %[1]s/apache.pid\nDefaultRuntimeDir %[1]s\nErrorLog %[1]s/error.log\n", f.dir)
		if os.Getuid() == 0 {
			fmt.Fprintf(&main, "User %[1]s\nGroup %[2]s\n", "www-data", "www-data")
		}
		for _, module := range []string{"mpm_event", "authz_core", "dir", "ssl"} {
			fmt.Fprintf(&main, "LoadModule %[1]s_module /usr/lib/apache2/modules/mod_%[1]s.so\n", module)
		}
		fmt.Fprintf(&main, "DirectoryIndex index.html\nInclude %s\n", site)
		conf := filepath.Join(f.dir, "main.conf")
		if err := os.WriteFile(conf, []byte(main.String()), 0o644); err != nil {
			f.Fatal(err)
		}
		f.background(nil, apache, "-f", conf, "-D", "FOREGROUND")
		f.await("tcp", f.addr)
		return []string{"--exec", apache + " -f " + conf + " -k graceful"}
	},
	connect: func(f *crlFixture, id *client.Identity) error { return f.get(id) },
	open:    func(f *crlFixture, id *client.Identity) func() error { return f.keepAlive(id) },
}

// postgresCRL is a PostgreSQL of the tests with the configuration of deploy/crl-files, where the tests' own roles come by
// password as ever.
var postgresCRL = crlServer{
	name: "postgres",
	start: func(f *crlFixture) []string {
		f.first()
		f.database = pgtest.Start(f)
		f.addr = f.database.Addr()
		if err := f.database.Stop(); err != nil {
			f.Fatal(err)
		}
		var files []string
		for _, name := range []string{"client.crt", "client.key", "root.crt"} {
			files = append(files, "/etc/pkid/server/"+name, f.database.Put(f, name, f.read(filepath.Join(f.identity.Dir(), name))))
		}
		f.database.Put(f, "postgresql.auto.conf", f.read(f.configuration("postgresql.conf", files...)))
		own := []byte("host all postgres,pkid 127.0.0.1/32 scram-sha-256\n")
		f.database.Put(f, "pg_hba.conf", append(own, f.read(f.configuration("pg_hba.conf"))...))
		if err := f.database.Start(); err != nil {
			f.Fatal(err)
		}
		return []string{"--exec", "kill -HUP $(head -n 1 " + filepath.Join(f.database.Dir(), "data", "postmaster.pid") + ")"}
	},
	admit: func(f *crlFixture, name string) { f.database.Administer(f, "CREATE ROLE "+name+" LOGIN") },
	connect: func(f *crlFixture, id *client.Identity) error {
		c, err := f.postgres(id)
		if err != nil {
			return err
		}
		return c.Close(f.Context())
	},
	open: func(f *crlFixture, id *client.Identity) func() error {
		c, err := f.postgres(id)
		if err != nil {
			f.Fatal(err)
		}
		return func() error { return c.Ping(f.Context()) }
	},
	end: func(f *crlFixture) {
		f.database.Administer(f, "SELECT pg_terminate_backend(pid) FROM pg_stat_ssl WHERE client_serial IS NOT NULL")
	},
}

func (f *crlFixture) postgres(id *client.Identity) (*pgx.Conn, error) {
	c, err := pgx.ParseConfig("postgres://" + id.Info().ClientID + "@" + f.addr + "/postgres?sslmode=require&connect_timeout=5")
	if err != nil {
		return nil, err
	}
	c.Fallbacks, c.TLSConfig = nil, f.tlsConfig(id)
	c.TLSConfig.ServerName = "127.0.0.1"
	conn, err := pgx.ConnectConfig(f.Context(), c)
	if err != nil {
		return nil, revokedIf(err, strings.Contains(err.Error(), "tls: revoked certificate"))
	}
	return conn, nil
}

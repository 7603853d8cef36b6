package pgstore

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// How long things may take. A request waits for the database for a few seconds at most, whatever that does.
const (
	connectTimeout  = 3 * time.Second // for a connection, to each of the URL's hosts
	readTimeout     = 5 * time.Second // for a read, with the wait for a connection
	queueTimeout    = 3 * time.Second // for a write until the writer takes it
	writeTimeout    = 4 * time.Second // for all attempts at a transaction
	settleTimeout   = 4 * time.Second // for finding out what became of a commit
	blockedFor      = time.Second     // how long the writer waits for the head before it looks who has it
	abandonedFor    = 2 * time.Second // how long that one must have waited for its client to be cut off
	serverStatement = "4000"          // ms, of one statement: the server's bound, should the client's not reach it
)

// maxReaders bounds the connections for reading, unless the URL says pool_max_conns. Beside these a store has one to
// write, and one to listen.
const maxReaders = 16

// session is what is set on every connection. The timeouts bound how long a node that is gone can be in others' way:
// locks are given up by a transaction that nobody goes on with, and by a connection whose other end does not answer.
var session = map[string]string{
	"search_path":                         schema,
	"timezone":                            "UTC",
	"default_transaction_isolation":       "read committed", // which what compares and writes in one statement is made for
	"enable_seqscan":                      "off",            // a plan that was made while a table was small is kept, and would read all of it for good
	"jit":                                 "off",            // compiling a query takes longer than any of these
	"statement_timeout":                   serverStatement,
	"lock_timeout":                        "3000",
	"idle_in_transaction_session_timeout": "3000",
	"client_connection_check_interval":    "2000",
	"tcp_keepalives_idle":                 "5",
	"tcp_keepalives_interval":             "2",
	"tcp_keepalives_count":                "3",
	"tcp_user_timeout":                    "10000",
}

// parseURL turns the URL into how to connect. No error has the password in it.
func parseURL(raw string) (*pgxpool.Config, error) {
	u, err := url.Parse(raw)
	if err != nil || u.Scheme != "postgres" && u.Scheme != "postgresql" {
		return nil, errors.New("the database's URL is not of the form postgres://USER:PASSWORD@HOST:PORT/DATABASE?sslmode=verify-full")
	}
	cfg, err := pgxpool.ParseConfig(raw)
	if err != nil {
		return nil, fmt.Errorf("the database's URL: %s", withoutPassword(u, err))
	}
	if !u.Query().Has("pool_max_conns") {
		cfg.MaxConns = maxReaders
	}
	cfg.HealthCheckPeriod = 10 * time.Second
	c := cfg.ConnConfig
	c.ConnectTimeout = connectTimeout
	c.DialFunc = dialer.DialContext
	if c.RuntimeParams["application_name"] == "" {
		c.RuntimeParams["application_name"] = "pkid"
	}
	if len(c.Fallbacks) > 0 && c.ValidateConnect == nil {
		c.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite // of several hosts, the one that is not a standby
	}
	c.AfterConnect = settleSession
	return cfg, nil
}

// dialer finds out within seconds that the other end is gone.
var dialer = &net.Dialer{KeepAliveConfig: net.KeepAliveConfig{
	Enable: true, Idle: 5 * time.Second, Interval: 2 * time.Second, Count: 3,
}}

// withoutPassword is an error's text. pgx hides passwords too; this does not rely on it.
func withoutPassword(u *url.URL, err error) string {
	text := err.Error()
	given, _ := u.User.Password()
	for _, secret := range []string{given, u.Query().Get("password"), u.Query().Get("sslpassword")} {
		if secret != "" {
			text = strings.NewReplacer(secret, "xxxxx", url.QueryEscape(secret), "xxxxx", url.PathEscape(secret), "xxxxx").Replace(text)
		}
	}
	return text
}

// sessionSQL sets all of session in one statement.
var sessionSQL = sync.OnceValue(func() string {
	var each []string
	for name, value := range session {
		each = append(each, fmt.Sprintf("set_config('%s', '%s', false)", name, value))
	}
	return "SELECT " + strings.Join(each, ", ")
})

const oldestServer = 150000 // server_version_num

// settleSession sets what is set on every connection, and what depends on the server. It does so by statements, since a
// pooler refuses or ignores what it does not know of the parameters that a connection starts with. A commit must be
// durable before it is acknowledged, so a server that would not wait for its disk is told to.
func settleSession(ctx context.Context, c *pgconn.PgConn) error {
	results, err := c.Exec(ctx, sessionSQL()+`;
		SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off';
		SELECT set_config('transaction_timeout', '10000', false) WHERE current_setting('server_version_num')::int >= 170000;
		SELECT current_setting('server_version_num')`).ReadAll()
	if err != nil {
		return fmt.Errorf("setting up the session: %w", err)
	}
	version, err := strconv.Atoi(string(results[3].Rows[0][0]))
	if err != nil || version < oldestServer {
		return fmt.Errorf("the server is PostgreSQL %s; pkid needs 15 or newer", c.ParameterStatus("server_version"))
	}
	return nil
}

// unhurriedSQL lifts the bounds that are right for requests, for what takes as long as it takes. Which of them there are
// depends on the server.
const unhurriedSQL = `
	SELECT set_config(name, '0', false) FROM pg_settings
	WHERE name IN ('statement_timeout', 'lock_timeout', 'idle_in_transaction_session_timeout', 'transaction_timeout')`

// dial makes a connection that is nobody else's.
func (s *Store) dial(ctx context.Context) (*pgx.Conn, error) {
	return pgx.ConnectConfig(ctx, s.pool.Config().ConnConfig)
}

package config

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"strings"

	"github.com/pkid/pkid/internal/secret"
)

// bolt is the scheme of a store in one file.
const bolt = "bolt:"

// StorePath returns the path of the bbolt file; empty if the store is no file.
func (c *Config) StorePath() string {
	path, ok := strings.CutPrefix(c.Store, bolt)
	if !ok {
		return ""
	}
	return c.Path(path)
}

// IsPostgres reports whether a store is a PostgreSQL database.
func IsPostgres(store string) bool {
	scheme, _, _ := strings.Cut(store, ":")
	return scheme == "postgres" || scheme == "postgresql"
}

// StoreURL returns the database's URL with the password of store_password, if there is one, in it: it is for the driver
// alone.
func (c *Config) StoreURL() (string, error) {
	if c.StorePassword == "" {
		return c.Store, nil
	}
	password, err := c.readSecret("store_password", c.StorePassword)
	if err != nil {
		return "", err
	}
	u, err := url.Parse(c.Store)
	if err != nil {
		return "", errors.New("store: not a URL") // validate has said more
	}
	u.User = url.UserPassword(u.User.Username(), string(password))
	return u.String(), nil
}

func (c *Config) validateStore() error {
	if err := CheckStore(c.Store); err != nil {
		return fmt.Errorf("store: %w", err)
	}
	if c.StorePassword == "" {
		return nil
	}
	if !IsPostgres(c.Store) {
		return errors.New("store_password: only a PostgreSQL store has one")
	}
	if _, _, err := secret.Split("store_password", c.StorePassword); err != nil {
		return err
	}
	u, err := url.Parse(c.Store)
	if err != nil || u.User.Username() == "" {
		return errors.New("store_password: name the user in the store's URL, as in postgres://pkid@db.example.com/pkid")
	}
	return nil
}

// CheckStore checks where a store is said to be. Its errors never show the text, which may hold a password.
func CheckStore(store string) error {
	if path, ok := strings.CutPrefix(store, bolt); ok {
		if path == "" {
			return errors.New("want bolt:PATH, with a path")
		}
		return nil
	}
	if !IsPostgres(store) {
		return errors.New("want bolt:PATH or postgres://USER@HOST/DATABASE")
	}
	u, err := url.Parse(store)
	if err != nil {
		return errors.New("not a URL such as postgres://pkid@db.example.com/pkid") // why not may quote a password
	}
	query := u.Query()
	_, hasPassword := u.User.Password()
	switch {
	case hasPassword || query.Has("password"):
		return errors.New("a password does not belong into a URL, which is shown and copied: " +
			"take it out, and name where it is kept with store_password, or in a password file (passfile=PATH)")
	case u.Opaque != "" || u.Fragment != "" || strings.Trim(u.Path, "/") == "" && !query.Has("dbname") && !query.Has("database"):
		return errors.New("name the database: postgres://USER@HOST/DATABASE")
	case remote(u) && !query.Has("sslmode"):
		return errors.New("the database is on another host: say how its certificate is checked with ?sslmode=verify-full " +
			"(and sslrootcert=FILE), or choose another sslmode expressly")
	}
	return nil
}

// remote reports whether the way to the database leaves this host. Without a host it is a Unix socket, or what the
// environment says.
func remote(u *url.URL) bool {
	hosts := strings.Split(u.Host, ",")
	if h := u.Query().Get("host"); h != "" {
		hosts = strings.Split(h, ",")
	}
	for _, host := range hosts {
		if name, _, err := net.SplitHostPort(host); err == nil {
			host = name
		}
		ip := net.ParseIP(strings.Trim(host, "[]"))
		if host != "" && host != "localhost" && !filepath.IsAbs(host) && (ip == nil || !ip.IsLoopback()) {
			return true
		}
	}
	return false
}

// StoreOnly is a configuration of nothing but a PostgreSQL store, for who writes to one that no data directory has yet.
func StoreOnly(store, password string) (*Config, error) {
	if !IsPostgres(store) {
		return nil, errors.New("want postgres://USER@HOST/DATABASE")
	}
	if password != "" {
		var err error
		if password, err = secret.Absolute("store_password", password); err != nil {
			return nil, err
		}
	}
	c := &Config{Store: store, StorePassword: password}
	return c, c.validateStore()
}

// AbsoluteStore makes the path of a bbolt file absolute, for a configuration that will be elsewhere.
func AbsoluteStore(store string) (string, error) {
	path, ok := strings.CutPrefix(store, bolt)
	if !ok || filepath.IsAbs(path) {
		return store, nil
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return "", fmt.Errorf("store: %w", err)
	}
	return bolt + path, nil
}

// Package integration holds the tests that run a whole pkid against the programs that its users have:
// openssl, curl, nginx and the npm OAuth clients.
package integration

package pgstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/puddle/v2"
)

var (
	// ErrNotStore: the database is not a store of pkid, or it is damaged. The text says which.
	ErrNotStore = errors.New("not a usable pkid store")
	// ErrNewerSchema: a newer pkid wrote to the database. Use that one.
	ErrNewerSchema = errors.New("the store was written by a newer pkid")
	// ErrIdentity: the store is another CA's.
	ErrIdentity = errors.New("the store belongs to another CA")
	// ErrClosed: the store was closed.
	ErrClosed = errors.New("the store is closed")
	// ErrUnavailable: the database cannot be had right now. Nothing was changed.
	ErrUnavailable = errors.New("the database is not available")
	// ErrOutcomeUnknown: the database went away during a commit, and did not come back in time to be asked. What was to
	// be changed is changed, or is not; later reads tell.
	ErrOutcomeUnknown = errors.New("the database went away during a commit, and whether that took effect is not known")
)

// retryAfter is what an awayError says. Most of what ends a connection is over in a second or two: a failover takes
// longer, and who comes back too early is told again.
const retryAfter = 2 * time.Second

// awayError is ErrUnavailable or ErrOutcomeUnknown with its cause. Callers that must not know this package find it by
// its method RetryAfter.
type awayError struct {
	sentinel error
	cause    error
}

func (e *awayError) Error() string { return fmt.Sprintf("%v: %v", e.sentinel, e.cause) }

// Unwrap leaves the cause out where that is an ended context: it is the database's time that was up, and not the
// caller's.
func (e *awayError) Unwrap() []error {
	if errors.Is(e.cause, context.DeadlineExceeded) || errors.Is(e.cause, context.Canceled) {
		return []error{e.sentinel}
	}
	return []error{e.sentinel, e.cause}
}

// RetryAfter says when trying again makes sense.
func (e *awayError) RetryAfter() time.Duration { return retryAfter }

// OutcomeUnknown reports whether what was to be changed may be changed.
func (e *awayError) OutcomeUnknown() bool { return errors.Is(e.sentinel, ErrOutcomeUnknown) }

func unavailable(cause error) error { return &awayError{ErrUnavailable, cause} }

// SQLSTATE codes and classes (PostgreSQL manual, appendix A).
const (
	classConnection    = "08"
	classResources     = "53" // disk full, out of memory, too many connections
	classOperator      = "57" // shutdown, recovery, a timeout
	classSystem        = "58" // input and output
	readOnly           = "25006"
	idleInTransaction  = "25P03"
	transactionTimeout = "25P04"
	conflict           = "40001"
	deadlock           = "40P01"
	lockTimeout        = "55P03"
)

// sqlState returns the SQLSTATE of an error that the server sent, or "".
func sqlState(err error) string {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return e.Code
	}
	return ""
}

// lostError is an error after which a connection was gone.
type lostError struct{ error }

func (e *lostError) Unwrap() error { return e.error }

// orLost marks the error of something that was done with a connection, if that is gone now. pgx closes a connection
// after any error but one that the server sent or that comes before anything is sent, so this finds all of them.
func orLost(conn *pgx.Conn, err error) error {
	if err != nil && conn.IsClosed() {
		return &lostError{err}
	}
	return err
}

// isPassing reports whether the same work may succeed when it is done again, on another connection if need be.
func isPassing(err error) bool {
	_, lost := errors.AsType[*lostError](err)
	_, connecting := errors.AsType[*pgconn.ConnectError](err)
	if lost || connecting || errors.Is(err, context.DeadlineExceeded) {
		return true
	}
	code := sqlState(err)
	switch code {
	case conflict, deadlock, lockTimeout, readOnly, idleInTransaction, transactionTimeout:
		return true
	case "":
		return false
	}
	switch code[:2] {
	case classConnection, classResources, classOperator, classSystem:
		return true
	}
	return false
}

// explain is what a caller is told of an error that ended its work: of its own context if that ended, that the database
// is away if that is it, and of the doing else.
func explain(ctx context.Context, doing string, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, puddle.ErrClosedPool):
		return ErrClosed
	case isPassing(err):
		return unavailable(fmt.Errorf("%s: %w", doing, err))
	}
	return fmt.Errorf("%s: %w", doing, err)
}

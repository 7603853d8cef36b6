package pgstore

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// tries bounds how often something is done again on another connection: one that lay idle may have ended unnoticed.
const tries = 3

// view runs read with a connection, and again with another one if that is lost. doing begins the error, which is
// ErrUnavailable where the database is to blame.
func (s *Store) view(ctx context.Context, doing string, read func(context.Context, *pgx.Conn) error) error {
	return s.retry(ctx, doing, read, isPassing)
}

// write is view for one statement that writes, compares included, and needs no audit entry. It runs again only where it
// is certain that nothing was written; a connection that is lost in between is ErrOutcomeUnknown.
func (s *Store) write(ctx context.Context, doing string, write func(context.Context, *pgx.Conn) error) error {
	return s.retry(ctx, doing, func(ctx context.Context, conn *pgx.Conn) error {
		err := write(ctx, conn)
		if err == nil || !conn.IsClosed() || isRefusal(err) || pgconn.SafeToRetry(err) {
			return err
		}
		return &awayError{ErrOutcomeUnknown, err}
	}, func(err error) bool { return isPassing(err) && !errors.Is(err, ErrOutcomeUnknown) })
}

func (s *Store) retry(ctx context.Context, doing string, do func(context.Context, *pgx.Conn) error, again func(error) bool) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	for try := 0; ; try++ {
		err := s.borrow(limited, do)
		if err == nil || errors.Is(err, ErrOutcomeUnknown) {
			return err
		}
		if !again(err) || try == tries-1 || !pause(limited, try) {
			return explain(ctx, doing, err)
		}
	}
}

// borrow runs do with a connection of the pool. That ends with its time and not when the caller goes away: pgx closes a
// connection whose context ends, and a client that hangs up would cost a new one each time.
func (s *Store) borrow(ctx context.Context, do func(context.Context, *pgx.Conn) error) error {
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	until, ok := ctx.Deadline()
	if !ok {
		until = time.Now().Add(readTimeout)
	}
	ctx, cancel := context.WithDeadline(context.WithoutCancel(ctx), until)
	defer cancel()
	return orLost(conn.Conn(), do(ctx, conn.Conn()))
}

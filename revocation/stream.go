package revocation

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"time"
)

var errSilent = errors.New("the stream is silent: three heartbeats are missing")

// answerError is an answer other than the stream.
type answerError struct {
	status     string
	hint       string
	retryAfter time.Duration
	anew       bool // the issuer does not take the id, as one of another version may not
}

func (e *answerError) Error() string { return "the answer is " + e.status + e.hint }

// follow asks for the stream once and takes what it tells, until it ends. It reports whether it was heard to its present
// end.
func (f *Follower) follow(ctx context.Context) (heard bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silence := time.AfterFunc(answerWithin, func() { cancel(errSilent) })
	defer silence.Stop()
	f.mu.RLock()
	last := f.last
	f.mu.RUnlock()
	body, err := f.open(ctx, last)
	if err != nil {
		return false, because(ctx, err)
	}
	defer body.Close()
	in := incoming{Follower: f, patience: answerWithin, blank: last == ""}
	for r := newReader(body); ; {
		m, err := r.next()
		if err == nil {
			err = in.take(m)
		}
		if err != nil {
			return in.heard, because(ctx, err)
		}
		silence.Reset(in.patience)
	}
}

// because tells silence from what ends a request otherwise.
func because(ctx context.Context, err error) error {
	if errors.Is(context.Cause(ctx), errSilent) {
		return errSilent
	}
	if errors.Is(err, io.EOF) {
		return errors.New("the stream ended")
	}
	return err
}

func (f *Follower) open(ctx context.Context, last string) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, f.url, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", ContentType)
	req.Header.Set("Accept-Encoding", "identity")
	req.Header.Set("Cache-Control", "no-cache")
	if last != "" {
		req.Header.Set("Last-Event-ID", last)
	}
	resp, err := f.client.Do(req)
	if err != nil {
		return nil, err
	}
	if err := accept(resp); err != nil {
		resp.Body.Close()
		return nil, err
	}
	f.mu.Lock()
	f.counts.connects++
	f.mu.Unlock()
	return resp.Body, nil
}

func accept(resp *http.Response) error {
	switch {
	case resp.StatusCode == http.StatusNotFound:
		return &answerError{status: resp.Status, hint: ": the issuer has no revocation stream"}
	case resp.StatusCode != http.StatusOK:
		e := &answerError{status: resp.Status, anew: resp.StatusCode == http.StatusBadRequest}
		if d, err := time.ParseDuration(resp.Header.Get("Retry-After") + "s"); err == nil { // Run bounds it
			e.retryAfter = d
		}
		return e
	}
	if kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")); kind != ContentType {
		return fmt.Errorf("%w: its content type is %.80q", errStream, resp.Header.Get("Content-Type"))
	}
	return nil
}

// incoming is one stream while it lasts.
type incoming struct {
	*Follower
	patience time.Duration // until the next event
	heard    bool          // to its present end
	blank    bool          // it has to begin with a reset, which says what is true
	anew     *tokens       // after a reset, what the stream told since; the next heartbeat makes it count
}

// take takes an event.
func (in *incoming) take(m message) (err error) {
	f := in.Follower
	f.mu.Lock()
	defer f.mu.Unlock()
	switch m.name {
	case CertificateEvent:
		err = take(m, in.certificate)
	case ClientEvent:
		err = take(m, func(c Client) error { in.target().client(c, f.now()); return nil })
	case TokenEvent:
		err = take(m, func(t Token) error { in.target().token(t, f.now()); return nil })
	case ResetEvent:
		err = take(m, in.reset)
	case HeartbeatEvent:
		err = take(m, in.heartbeat)
	}
	if err != nil {
		return err
	}
	f.counts.events++
	if m.hasI && (in.anew == nil || m.id == "") { // who goes on after an event has to know all that was told before it
		f.last = m.id
	}
	return nil
}

func take[T any](m message, with func(T) error) error {
	data, err := decode[T](m)
	if err != nil {
		return err
	}
	return with(data)
}

func (in *incoming) target() *tokens {
	if in.anew != nil {
		return in.anew
	}
	return in.tokens
}

func (in *incoming) certificate(c Certificate) error {
	if err := in.certificates.take(c, in.now()); err != nil {
		return err
	}
	in.alertUntil = in.now().Add(alert)
	in.pace(0)
	return nil
}

// reset forgets what the stream does not vouch for any more, but not before it has told what is true instead.
func (in *incoming) reset(r Reset) error {
	if !in.Follower.heard.IsZero() {
		in.log.Info("the revocation stream cannot go on from where it was; what was missed comes with the CRL", "url", in.url, "reason", r.Reason)
	}
	in.counts.resets++
	in.blank, in.anew = false, newTokens(in.tokens.most)
	in.anew.notBefore = r.TokensNotBefore
	in.certificates.reset(in.now())
	in.alertUntil = in.now().Add(alert)
	in.pace(0)
	return nil
}

func (in *incoming) heartbeat(h Heartbeat) error {
	if in.blank {
		return fmt.Errorf("%w: it does not begin with what was revoked before", errStream)
	}
	f, now := in.Follower, in.now()
	if f.heard.IsZero() {
		defer close(f.ready)
	}
	if in.anew != nil {
		f.tokens, in.anew = in.anew, nil
	}
	if !in.heard && f.err != nil {
		f.log.Info("the revocation stream is heard again", "url", f.url)
	}
	in.heard, in.patience = true, heartbeats*min(max(time.Duration(h.Every)*time.Second, time.Second), mostEvery)
	f.connected, f.heard, f.err = true, now, nil
	f.tokens.sweep(now)
	f.certificates.sweep(now, f.checker)
	if now.After(f.alertUntil) {
		f.pace(easy)
	}
	return nil
}

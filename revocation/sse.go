package revocation

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
)

// What one event may have. pkid's have some hundred octets.
const (
	maxLine = 4 << 10
	maxData = 16 << 10
	maxID   = 128
)

// errStream: what was sent is no stream of events that pkid sends.
var errStream = errors.New("not a revocation stream")

// message is an event as it came.
type message struct {
	name string
	data []byte
	id   string // if there is one
	hasI bool
}

// reader reads server-sent events, within bounds.
type reader struct{ b *bufio.Reader }

func newReader(r io.Reader) *reader { return &reader{bufio.NewReaderSize(r, maxLine)} }

// next returns the next event that has data. An event that the end of the stream cuts is none (HTML standard, section
// 9.2.6). Lines may end with LF or CRLF; a CR alone, which no server is known to send, is part of its line.
func (r *reader) next() (message, error) {
	var m message
	lines := 0
	for {
		line, err := r.line()
		switch {
		case err != nil:
			return m, err
		case len(line) > 0:
			if lines++; lines > maxData/8 {
				return m, fmt.Errorf("%w: an event of more than %d lines", errStream, maxData/8)
			}
			if err := m.field(line); err != nil {
				return m, err
			}
		case m.data != nil:
			m.data = m.data[:len(m.data)-1] // the last LF
			return m, nil
		default:
			m, lines = message{}, 0
		}
	}
}

// line returns a line without its end.
func (r *reader) line() ([]byte, error) {
	line, err := r.b.ReadSlice('\n')
	switch {
	case errors.Is(err, bufio.ErrBufferFull):
		return nil, fmt.Errorf("%w: a line of more than %d octets", errStream, maxLine)
	case errors.Is(err, io.EOF) && len(line) > 0:
		return nil, io.ErrUnexpectedEOF
	case err != nil:
		return nil, err
	}
	return bytes.TrimSuffix(line[:len(line)-1], []byte("\r")), nil
}

// field takes one line of an event.
func (m *message) field(line []byte) error {
	name, value, _ := bytes.Cut(line, []byte(":"))
	value = bytes.TrimPrefix(value, []byte(" "))
	switch string(name) {
	case "event":
		m.name = string(value)
	case "data":
		if len(m.data)+len(value)+1 > maxData {
			return fmt.Errorf("%w: an event of more than %d octets", errStream, maxData)
		}
		m.data = append(append(m.data, value...), '\n')
	case "id":
		id := string(value)
		if len(id) > maxID || strings.ContainsFunc(id, func(r rune) bool { return r <= ' ' || r > '~' }) {
			return fmt.Errorf("%w: an id that cannot be sent back", errStream)
		}
		m.id, m.hasI = id, true
	}
	return nil // comments, and what is not known here
}

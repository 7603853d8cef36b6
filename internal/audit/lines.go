package audit

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
)

// maxLine bounds an entry in octets. What requests may put into one is far below.
const maxLine = 1 << 20

// AppendLine appends an entry as a line: the JSON that its hash covers, with the hash. It is the form of archives and of
// the export.
func AppendLine(b []byte, e Entry) ([]byte, error) {
	b, err := e.appendJSON(b)
	return append(b, '\n'), err
}

// ErrCut: the last line has no end, and is no entry either: its writing was interrupted, or is under way.
var ErrCut = errors.New("the last line is cut")

// ReadLines yields the entries of an archive or an export, compressed by gzip or not, as they stand there: whether one
// follows from the one before it is for Verify to say. A line that is not what AppendLine writes is a *BrokenError that
// names the entry which should have stood there, as far as that is known; of one that is the start of a line only, ErrCut
// too. An error ends it.
func ReadLines(r io.Reader) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		buffered := bufio.NewReader(r)
		if magic, _ := buffered.Peek(2); bytes.Equal(magic, []byte{0x1f, 0x8b}) {
			unzipped, err := gzip.NewReader(buffered)
			if err != nil {
				yield(Entry{}, fmt.Errorf("reading audit entries: %w", err))
				return
			}
			buffered = bufio.NewReader(unzipped)
		}
		lines := bufio.NewScanner(buffered)
		lines.Buffer(nil, maxLine)
		seq, ended := uint64(0), true
		lines.Split(func(data []byte, atEOF bool) (int, []byte, error) {
			ended = bytes.IndexByte(data, '\n') >= 0
			return bufio.ScanLines(data, atEOF)
		})
		for n := 1; lines.Scan(); n++ {
			e, err := parseLine(lines.Bytes())
			if err != nil {
				if err = fmt.Errorf("line %d: %w", n, &BrokenError{Seq: seq + 1, Why: err.Error()}); !ended {
					err = fmt.Errorf("%w: %w", ErrCut, err)
				}
			}
			if seq = e.Seq; !yield(e, err) || err != nil {
				return
			}
		}
		if err := lines.Err(); err != nil {
			yield(Entry{}, fmt.Errorf("reading audit entries after entry %d: %w", seq, err))
		}
	}
}

func parseLine(line []byte) (e Entry, err error) {
	if err := json.Unmarshal(line, &e); err != nil {
		return e, errors.New("it is not readable")
	}
	if again, err := e.appendJSON(nil); err != nil || !bytes.Equal(again, line) {
		return e, errors.New("it is not as it was written")
	}
	return e, nil
}

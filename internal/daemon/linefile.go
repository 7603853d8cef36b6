package daemon

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/pkid/pkid/internal/durable"
)

// lineFile is a file that whole lines are appended to. It is opened for each write, so that it can be moved away at any
// time, and a write is durable when it returns, or leaves nothing behind.
type lineFile struct{ path string }

func (f *lineFile) Write(lines []byte) (n int, err error) {
	_, missing := os.Stat(f.path)
	file, err := os.OpenFile(f.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	info, err := file.Stat()
	if err != nil {
		return 0, err
	}
	_, err = file.Write(lines)
	if err = errors.Join(err, file.Sync()); err != nil {
		return 0, errors.Join(err, file.Truncate(info.Size()))
	}
	if missing != nil {
		return len(lines), durable.Dir(filepath.Dir(f.path))
	}
	return len(lines), nil
}

// maxLastLine bounds the line that last reads.
const maxLastLine = 2 << 20

// last returns the last line, empty if there is none, and takes away what stands after it: the start of a line whose
// writing a crash has cut.
func (f *lineFile) last() (line string, err error) {
	file, err := os.OpenFile(f.path, os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	info, err := file.Stat()
	if err != nil {
		return "", err
	}
	from := max(info.Size()-maxLastLine, 0)
	tail := make([]byte, info.Size()-from)
	if _, err := io.ReadFull(io.NewSectionReader(file, from, int64(len(tail))), tail); err != nil {
		return "", err
	}
	end := bytes.LastIndexByte(tail, '\n') + 1
	if end == 0 && from > 0 {
		return "", fmt.Errorf("%s: its last line is longer than any that pkid writes", f.path)
	}
	if end < len(tail) {
		if err := errors.Join(file.Truncate(from+int64(end)), file.Sync()); err != nil {
			return "", err
		}
	}
	if end == 0 {
		return "", nil
	}
	whole := tail[:end-1]
	return string(whole[bytes.LastIndexByte(whole, '\n')+1:]), nil
}

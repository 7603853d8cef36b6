package pgstore

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// isText reports whether a text column can hold s. What cannot be there need not be looked for.
func isText(s string) bool { return utf8.ValidString(s) && !strings.Contains(s, "\x00") }

// maxID bounds what callers name things by: an index holds about 2,700 octets.
const maxID = 1024

// checkID refuses what cannot be a key before a transaction begins.
func checkID(kind, id string) error {
	if len(id) == 0 || len(id) > maxID || !isText(id) {
		return fmt.Errorf("%s id %.40q: want 1 to %d octets of UTF-8 without NUL", kind, id, maxID)
	}
	return nil
}

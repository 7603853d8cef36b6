package audit

import (
	"encoding/hex"
	"slices"
	"strconv"

	"github.com/pkid/pkid/internal/appendjson"
)

// appendJSON appends what encoding/json writes for e, octet for octet: each act pays for it before it can be
// committed, and reflection takes ten times as long. The error is that of a time that JSON cannot tell.
func (e *Entry) appendJSON(b []byte) ([]byte, error) {
	b = strconv.AppendUint(append(b, `{"seq":`...), e.Seq, 10)
	b, err := e.Time.AppendText(append(b, `,"time":"`...))
	if err != nil {
		return nil, err
	}
	b = appendjson.String(append(b, `","actor":`...), e.Actor)
	if e.Address != "" {
		b = appendjson.String(append(b, `,"address":`...), e.Address)
	}
	if e.RequestID != "" {
		b = appendjson.String(append(b, `,"request_id":`...), e.RequestID)
	}
	b = appendjson.String(append(b, `,"action":`...), e.Action)
	b = appendjson.String(append(b, `,"subject":`...), e.Subject)
	if len(e.Detail) > 0 {
		b = appendDetail(append(b, `,"detail":`...), e.Detail)
	}
	b = hex.AppendEncode(append(b, `,"prev":"`...), e.Prev[:])
	b = hex.AppendEncode(append(b, `","hash":"`...), e.Hash[:])
	return append(b, `"}`...), nil
}

func appendDetail(b []byte, detail map[string]string) []byte {
	var room [8]string
	keys := room[:0]
	for k := range detail {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	sep := byte('{')
	for _, k := range keys {
		b = appendjson.String(append(b, sep), k)
		b = appendjson.String(append(b, ':'), detail[k])
		sep = ','
	}
	return append(b, '}')
}

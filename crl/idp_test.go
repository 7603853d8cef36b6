package crl

import (
	"encoding/hex"
	"reflect"
	"testing"
)

func TestIDPRoundTrip(t *testing.T) {
	ext, err := MarshalIDP("http://a/b")
	if err != nil {
		t.Fatal(err)
	}
	// SEQUENCE { distributionPoint [0] { fullName [0] { uniformResourceIdentifier [6] } } }
	if got, want := hex.EncodeToString(ext.Value), "3010a00ea00c860a"+hex.EncodeToString([]byte("http://a/b")); got != want {
		t.Errorf("value %s, want %s", got, want)
	}
	idp, err := ParseIDP(ext.Value)
	if err != nil || !reflect.DeepEqual(idp, IDP{URLs: []string{"http://a/b"}}) || !idp.Full() {
		t.Errorf("read back as %+v, err %v", idp, err)
	}
	for _, bad := range []string{"", "a/b", "http://", "ftp://a/b", "http://a/ b", "http://a/\x7f", "http://a/é"} {
		if _, err := MarshalIDP(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
	if _, err := ParseIDP(append(ext.Value, 0)); err == nil {
		t.Error("data after the end was accepted")
	}
}

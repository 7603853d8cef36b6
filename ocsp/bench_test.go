package ocsp

import "testing"

// What an answer costs that was signed before, and one that is signed for its request alone.
func BenchmarkRespond(b *testing.B) {
	r := newBench(b)
	r.set(7, Status{Kind: Good})
	for name, a := range map[string]ask{
		"without a nonce": {certs: [][]byte{r.id(7)}},
		"with a nonce":    {certs: [][]byte{r.id(7)}, nonce: octets(make([]byte, 32))},
	} {
		b.Run(name, func(b *testing.B) {
			der := a.der()
			for b.Loop() {
				if got := r.Respond(b.Context(), der); got.Err != nil {
					b.Fatal(got.Err)
				}
			}
		})
	}
}

package main

import (
	"encoding/json"
	"fmt"
	"math/big"
	"time"

	"github.com/smallstep/nosql"
	"github.com/smallstep/nosql/database"
)

// fillStepCA puts n revoked serial numbers into step-ca's store, in the form that it gives them.
func fillStepCA(n int) func(path string) error {
	return func(path string) (err error) {
		db, err := nosql.New("bbolt", path)
		if err != nil {
			return err
		}
		defer func() {
			if closing := db.Close(); err == nil {
				err = closing
			}
		}()
		table := []byte("revoked_x509_certs")
		if err := db.CreateTable(table); err != nil {
			return err
		}
		type revoked struct { // db.RevokedCertificateInfo
			Serial, ProvisionerID string
			ReasonCode            int
			Reason                string
			RevokedAt, ExpiresAt  time.Time
			TokenID               string
			MTLS, ACME            bool
		}
		now := time.Now().UTC()
		serial := new(big.Int).Lsh(big.NewInt(1), 126) // as long as pkid's
		for i := 0; i < n; {
			tx := new(database.Tx)
			for range min(10_000, n-i) {
				i++
				text := serial.Add(serial, big.NewInt(0x1_0000_0001)).String()
				value, err := json.Marshal(revoked{
					Serial: text, ProvisionerID: "bench:bench", ReasonCode: 1, RevokedAt: now, ExpiresAt: now.Add(90 * 24 * time.Hour),
					TokenID: fmt.Sprintf("%064x", i),
				})
				if err != nil {
					return err
				}
				tx.Set(table, []byte(text), value)
			}
			if err := db.Update(tx); err != nil {
				return err
			}
		}
		return nil
	}
}

package pgstore_test

import (
	"testing"

	"github.com/pkid/pkid/internal/storetest"
)

func TestContract(t *testing.T) { storetest.Run(t, opener()) }

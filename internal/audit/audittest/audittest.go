// Package audittest has what other packages' tests need of the audit log.
package audittest

import (
	"bytes"
	"crypto/ed25519"
	"testing"

	"github.com/eosc-siesta/siestad/internal/audit"
)

// Recorder records for a log that nobody runs.
func Recorder(t testing.TB) *audit.Recorder {
	t.Helper()
	r, err := audit.NewRecorder(ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, ed25519.SeedSize)), 1)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

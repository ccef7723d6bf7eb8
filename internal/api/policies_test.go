package api

import (
	"bytes"
	"crypto/ed25519"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/eosc-siesta/siestad/internal/attest"
	"github.com/eosc-siesta/siestad/internal/audit"
	"github.com/eosc-siesta/siestad/internal/keybroker"
	"github.com/eosc-siesta/siestad/internal/policy"
)

var floorKey = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{9}, 32))

// newPolicies is the service over a site whose configuration admits two chips of one product line.
func newPolicies(db *pgxpool.Pool, recorder *audit.Recorder) *policy.Service {
	site := attest.NovaPolicy(map[string]attest.TCB{attest.Genoa: {Bootloader: 4, SNP: 20, Microcode: 70}})
	site.Chips = [][]byte{make([]byte, 64), bytes.Repeat([]byte{1}, 64)}
	return policy.New(policy.Config{
		DB: db, Audit: recorder, Sites: map[string]attest.Policy{"ifca": site}, Archive: keybroker.NewArchive(db, attest.AMDRoots()), Verifier: &attest.Verifier{},
		FloorKeys: []ed25519.PublicKey{floorKey.Public().(ed25519.PublicKey)}, Host: hostOfTest, Now: (&testClock{}).now,
	})
}

func hostOfTest(site, chip string) string {
	if site == "ifca" && chip == attest.ChipKey(make([]byte, 64)) {
		return "node-1"
	}
	return ""
}

package keybroker

import (
	"crypto/rand"
	"fmt"
	"strings"

	"github.com/oklog/ulid/v2"

	"github.com/eosc-siesta/siestad/internal/attest"
)

// Codes of the broker's own refusals; those of attest stand beside them. They are stable.
const (
	CodeNonce      = "nonce"      // unknown, used, or expired
	CodeBinding    = "binding"    // header hash, signing key or purpose does not fit what is on record
	CodeGeneration = "generation" // not the generation, or not the boot, that was armed
	CodeSuspended  = "suspended"  // a second boot that nobody asked for came before
	CodePermit     = "permit"
	CodeProject    = "project"
	CodeImage      = "image"
	CodeFreeze     = "freeze"
	CodeLease      = "lease"     // another live holder, or no live lease to renew
	CodeKeyBlob    = "key_blob"  // the key store holds something else than was put there
	CodeRate       = "rate"      // too many requests
	CodeWorkspace  = "workspace" // unknown, or its key is shredded
	CodeSecret     = "secret"    // no such secret for this guest
)

// Refusal is the answer no. The guest is told its ID and nothing else.
type Refusal struct {
	ID     string
	Code   string
	Detail string
	Checks []attest.Check // every check of the decision, failed ones included
	// Counted says that nothing was kept of it but a count: strangers can cause as many of these as they like.
	Counted bool
}

func (r *Refusal) Error() string {
	return fmt.Sprintf("refused (%s), decision %s: %s", r.Code, r.ID, r.Detail)
}

// newID cannot be guessed from others: who could guess a challenge's could burn it.
func newID() string {
	return strings.ToLower(ulid.MustNew(ulid.Now(), rand.Reader).String())
}

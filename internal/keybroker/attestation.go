package keybroker

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/eosc-siesta/siestad/internal/attest"
	"github.com/eosc-siesta/siestad/internal/door"
	"github.com/eosc-siesta/siestad/internal/kbs"
)

// Attest judges a guest's evidence against the policy of its workspace and answers with a token; nothing is released, no
// lease begins, and the arming is not used up. The challenge is of purpose attest, bound like any other.
func (b *Broker) Attest(ctx context.Context, req door.GrantRequest, peer string) (string, error) {
	if b.Tokens == nil {
		return "", ErrNoTokens
	}
	turn, err := b.admit(ctx, peer, true)
	if err != nil {
		return "", err
	}
	defer turn.leave()
	ctx, cancel := whole(ctx)
	defer cancel()
	t, nonce, ok := b.ticket(req.Challenge)
	if !ok {
		return "", b.anonymous(turn, CodeNonce, "the challenge is unknown")
	}
	a, err := b.consume(ctx, req, t, nonce)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", b.anonymous(turn, CodeNonce, "the challenge is unknown, used or expired")
	}
	if err != nil {
		return "", fmt.Errorf("consuming a challenge: %w", err)
	}
	a.turn = turn
	if err := b.fits(ctx, a, door.Attest); err != nil {
		return "", err
	}
	d, err := b.attest(ctx, a, nil)
	if err != nil {
		b.refusedGuest(a, err)
		return "", err
	}
	key, err := json.Marshal(struct { // RFC 8037, section 2: the key with which this guest signs
		Curve string `json:"crv"`
		Type  string `json:"kty"`
		X     string `json:"x"`
	}{"Ed25519", "OKP", base64.RawURLEncoding.EncodeToString(req.SigningKey)})
	if err != nil {
		return "", fmt.Errorf("writing a guest's key: %w", err)
	}
	return b.token(a, d, base64.RawURLEncoding.EncodeToString(a.nonce), teeName(a.evidence.TEE), key)
}

// teeName is the name of hardware in tokens, the protocol's, for that in decisions.
func teeName(tee attest.TEE) string {
	switch tee {
	case attest.SEVSNP:
		return kbs.TEESNP
	case attest.TDX:
		return kbs.TEETDX
	}
	return ""
}

package door

import (
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
)

// Labels. Each begins the bytes of one kind of statement and of no other.
const (
	LabelChallenge = "siesta/challenge/v1"
	LabelEvidence  = "siesta/evidence/v1"
	LabelGrant     = "siesta/grant/v1"
	LabelEvent     = "siesta/event/v1"
	LabelAnswer    = "siesta/answer/v1"
)

// ErrSignature is a statement whose signature does not verify under the key it must verify under.
var ErrSignature = errors.New("signature does not verify")

// LP writes each part after its 8-byte big-endian length. Two different lists never give the same bytes.
func LP(parts ...[]byte) []byte {
	n := 0
	for _, p := range parts {
		n += 8 + len(p)
	}
	out := make([]byte, 0, n)
	for _, p := range parts {
		out = binary.BigEndian.AppendUint64(out, uint64(len(p)))
		out = append(out, p...)
	}
	return out
}

// Decimal is how a generation or a sequence number enters LP.
func Decimal(n int) []byte { return strconv.AppendInt(nil, int64(n), 10) }

// KeyHash is the text of siesta.kb in the measured command line: 43 characters of base64url over SHA-256 of B.
func KeyHash(b ed25519.PublicKey) string {
	h := sha256.Sum256(b)
	return base64.RawURLEncoding.EncodeToString(h[:])
}

// Binding is everything that a report must be bound to.
type Binding struct {
	Challenge  string
	Nonce      []byte
	Workspace  string
	Generation int
	Purpose    Purpose
	KEM        string
	HPKEKey    []byte
	SigningKey []byte // S, Ed25519
	HeaderHash string // hexadecimal SHA-256, or empty
}

// ReportData is the 64 bytes that the guest puts into its report and that the broker expects there, all of them.
func ReportData(b Binding) [64]byte {
	return sha512.Sum512(LP([]byte(LabelEvidence), []byte(b.Challenge), b.Nonce, []byte(b.Workspace), Decimal(b.Generation),
		[]byte(b.Purpose), []byte(b.KEM), b.HPKEKey, b.SigningKey, []byte(b.HeaderHash)))
}

func challengeBytes(req ChallengeRequest, c Challenge) []byte {
	return LP([]byte(LabelChallenge), []byte(c.Challenge), c.Nonce, []byte(req.Workspace), Decimal(req.Generation),
		[]byte(req.Purpose), []byte(c.ExpiresAt))
}

// SignChallenge sets c.BrokerKey and c.Signature.
func SignChallenge(key ed25519.PrivateKey, req ChallengeRequest, c *Challenge) {
	c.BrokerKey = key.Public().(ed25519.PublicKey)
	c.Signature = ed25519.Sign(key, challengeBytes(req, *c))
}

// VerifyChallenge checks that the challenge answers this very request and that its key is the one the guest was
// measured with: keyHash is siesta.kb.
func VerifyChallenge(keyHash string, req ChallengeRequest, c Challenge) error {
	if len(c.BrokerKey) != ed25519.PublicKeySize || KeyHash(c.BrokerKey) != keyHash {
		return errors.New("verifying the challenge: its key is not the broker key of the measured command line")
	}
	if !ed25519.Verify(c.BrokerKey, challengeBytes(req, c), c.Signature) {
		return fmt.Errorf("verifying the challenge: %w", ErrSignature)
	}
	return nil
}

func grantBytes(challenge string, nonce []byte, g Grant) []byte {
	sealed := sha256.Sum256(LP(g.Sealed.Enc, g.Sealed.Ciphertext))
	return LP([]byte(LabelGrant), []byte(challenge), nonce, sealed[:], []byte(g.Lease.ID), []byte(g.Lease.Until),
		[]byte(g.Lease.RenewAfter))
}

// SignGrant sets g.Signature.
func SignGrant(key ed25519.PrivateKey, challenge string, nonce []byte, g *Grant) {
	g.Signature = ed25519.Sign(key, grantBytes(challenge, nonce, *g))
}

// VerifyGrant checks B's signature over the lease and over exactly these sealed bytes, for this challenge.
func VerifyGrant(broker ed25519.PublicKey, challenge string, nonce []byte, g Grant) error {
	if len(broker) != ed25519.PublicKeySize || !ed25519.Verify(broker, grantBytes(challenge, nonce, g), g.Signature) {
		return fmt.Errorf("verifying the grant: %w", ErrSignature)
	}
	return nil
}

func eventBytes(lease string, e Event) []byte {
	return LP([]byte(LabelEvent), []byte(lease), Decimal(e.Seq), []byte(e.Stage), []byte(e.HeaderHash), []byte(e.Detail))
}

// SignEvent sets e.Signature with the guest's key S.
func SignEvent(s ed25519.PrivateKey, lease string, e *Event) {
	e.Signature = ed25519.Sign(s, eventBytes(lease, *e))
}

// VerifyEvent checks an event against the signing key of its lease.
func VerifyEvent(s ed25519.PublicKey, lease string, e Event) error {
	if len(s) != ed25519.PublicKeySize || !ed25519.Verify(s, eventBytes(lease, e), e.Signature) {
		return fmt.Errorf("verifying event %d: %w", e.Seq, ErrSignature)
	}
	return nil
}

func answerBytes(lease string, e Event) []byte {
	return LP([]byte(LabelAnswer), []byte(lease), Decimal(e.Seq), []byte(e.Stage), []byte(e.HeaderHash))
}

// SignAck is the broker's word that it has recorded e. The guest waits for it after `formatted`.
func SignAck(key ed25519.PrivateKey, lease string, e Event) EventAnswer {
	return EventAnswer{Seq: e.Seq, Signature: ed25519.Sign(key, answerBytes(lease, e))}
}

// VerifyAck checks that B has recorded this event, header hash included.
func VerifyAck(broker ed25519.PublicKey, lease string, e Event, a EventAnswer) error {
	if a.Seq != e.Seq || len(broker) != ed25519.PublicKeySize || !ed25519.Verify(broker, answerBytes(lease, e), a.Signature) {
		return fmt.Errorf("verifying the answer to event %d: %w", e.Seq, ErrSignature)
	}
	return nil
}

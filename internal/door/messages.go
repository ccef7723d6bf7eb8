package door

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Purpose says what a challenge is for; it is signed, measured into the report and part of the sealing.
type Purpose string

const (
	Unlock Purpose = "unlock" // the first grant of a boot
	Renew  Purpose = "renew"  // the lease of a running guest
	Rotate Purpose = "rotate" // a new key version beside the old one
	Attest Purpose = "attest" // a token about the guest, and no key
)

// Stage is what a guest reports about itself.
type Stage string

const (
	Formatted Stage = "formatted" // LUKS header written; answered by B's signature once recorded
	Unlocked  Stage = "unlocked"
	Ready     Stage = "ready"
	Failed    Stage = "failed"
	Stopping  Stage = "stopping"
)

// ChallengeLife is how long a nonce may be used. The guest tells from it when the broker made a challenge.
const ChallengeLife = 2 * time.Minute

// Sizes. A body is cut off before it is parsed; a field is refused after.
const (
	NonceSize            = 32
	MaxChallengeRequest  = 1 << 10
	MaxChallenge         = 4 << 10
	MaxGrantRequest      = 128 << 10
	MaxGrant             = 64 << 10
	MaxEventLog          = 64 << 10 // the whole area of OVMF
	MaxEvent             = 4 << 10
	MaxEventAnswer       = 1 << 10
	maxReport            = 16 << 10
	maxCertificates      = 32 << 10
	maxDetail            = 1 << 10
	maxReceipt           = 32 << 10
	maxCiphertext        = 4 << 10
	maxGeneration        = 1 << 30
	maxSeq               = 1 << 30
	maxID                = 64
	maxChallenge         = 192 // a ticket: ids, numbers and a code
	headerHashSize       = 64
	maxHPKEKey           = 2 << 10
	maxContext           = 255
	challengeTimeFormat  = time.RFC3339
	lowerHex             = "0123456789abcdef"
	idCharacters         = "0123456789abcdefghijklmnopqrstuvwxyz-_."
	maxTEE               = 16
	ed25519SignatureSize = ed25519.SignatureSize
)

// ChallengeRequest is POST /v1/challenges.
type ChallengeRequest struct {
	Workspace  string  `json:"workspace"`
	Generation int     `json:"generation"`
	Purpose    Purpose `json:"purpose"`
}

// Challenge is its answer.
type Challenge struct {
	Challenge string `json:"challenge"`
	Nonce     []byte `json:"nonce"`
	ExpiresAt string `json:"expires_at"` // RFC 3339, UTC; signed as this text
	BrokerKey []byte `json:"broker_key"`
	Signature []byte `json:"signature"`
}

// Evidence is what the platform says about the guest; the broker judges it, this package only bounds it.
type Evidence struct {
	TEE          string `json:"tee"`
	Report       []byte `json:"report"`
	Certificates []byte `json:"certificates,omitempty"`
	EventLog     []byte `json:"event_log,omitempty"`
}

// HPKEKey is the guest's fresh public key and its kind.
type HPKEKey struct {
	KEM       string `json:"kem"`
	PublicKey []byte `json:"public_key"`
}

// GrantRequest is POST /v1/grants.
type GrantRequest struct {
	Challenge  string   `json:"challenge"`
	Evidence   Evidence `json:"evidence"`
	HPKE       HPKEKey  `json:"hpke"`
	SigningKey []byte   `json:"signing_key"`
	HeaderHash string   `json:"header_hash"` // hexadecimal SHA-256 of the LUKS header, empty when there is none yet
}

// Lease is how long the guest may hold the key. Times are RFC 3339, UTC, by the broker's clock.
type Lease struct {
	ID         string `json:"id"`
	Until      string `json:"until"`
	RenewAfter string `json:"renew_after"`
}

// Box is an HPKE message. Both fields are empty in the answer to a renewal, which carries no key.
type Box struct {
	Enc        []byte `json:"enc,omitempty"`
	Ciphertext []byte `json:"ciphertext,omitempty"`
}

// Context is what the guest cannot know by itself and needs for the HPKE info. It needs no signature of its own: a
// changed word here gives another info, and the box, whose hash is signed, does not open.
type Context struct {
	Project    string `json:"project"`
	Volume     string `json:"volume"`
	PolicyHash string `json:"policy_hash"` // hexadecimal SHA-256
}

// Grant is the answer to a GrantRequest.
type Grant struct {
	Lease     Lease   `json:"lease"`
	Sealed    Box     `json:"sealed"`
	Context   Context `json:"context"`
	Receipt   string  `json:"receipt"` // proof that the release stands in the audit log, C2SP tlog-proof text
	Signature []byte  `json:"signature"`
}

// Event is POST /v1/guests/{lease}/events. Seq starts at 1 and grows; the same seq with the same content is a redelivery.
type Event struct {
	Seq        int    `json:"seq"`
	Stage      Stage  `json:"stage"`
	HeaderHash string `json:"header_hash"`
	Detail     string `json:"detail"`
	Signature  []byte `json:"signature"`
}

// EventAnswer is its answer; the signature is empty where the guest need not wait for it.
type EventAnswer struct {
	Seq       int    `json:"seq"`
	Signature []byte `json:"signature,omitempty"`
}

// GrantInfo is the HPKE info of a grant: a box sealed for one workspace, generation, volume, challenge or policy does
// not open for another.
func GrantInfo(c Context, req ChallengeRequest, nonce []byte) []byte {
	return LP([]byte(LabelGrant), []byte(c.Project), []byte(req.Workspace), Decimal(req.Generation), []byte(c.Volume), nonce,
		[]byte(c.PolicyHash), []byte(req.Purpose))
}

func (r ChallengeRequest) check() error {
	switch {
	case !isID(r.Workspace):
		return errors.New("workspace is missing or malformed")
	case r.Generation < 1 || r.Generation > maxGeneration:
		return errors.New("generation is out of range")
	case r.Purpose != Unlock && r.Purpose != Renew && r.Purpose != Rotate && r.Purpose != Attest:
		return errors.New("purpose is unknown")
	}
	return nil
}

func (c Challenge) check() error {
	switch {
	case !isChallenge(c.Challenge):
		return errors.New("challenge is missing or malformed")
	case len(c.Nonce) != NonceSize:
		return errors.New("nonce has a wrong size")
	case !isTime(c.ExpiresAt):
		return errors.New("expires_at is not an RFC 3339 time in UTC")
	case len(c.BrokerKey) != ed25519.PublicKeySize:
		return errors.New("broker_key has a wrong size")
	case len(c.Signature) != ed25519SignatureSize:
		return errors.New("signature has a wrong size")
	}
	return nil
}

func (r GrantRequest) check() error {
	switch {
	case !isChallenge(r.Challenge):
		return errors.New("challenge is missing or malformed")
	case r.Evidence.TEE == "" || len(r.Evidence.TEE) > maxTEE || !isID(r.Evidence.TEE):
		return errors.New("evidence.tee is missing or malformed")
	case len(r.Evidence.Report) == 0 || len(r.Evidence.Report) > maxReport:
		return errors.New("evidence.report is missing or too long")
	case len(r.Evidence.Certificates) > maxCertificates:
		return errors.New("evidence.certificates is too long")
	case len(r.Evidence.EventLog) > MaxEventLog:
		return errors.New("evidence.event_log is too long")
	case len(r.HPKE.PublicKey) > maxHPKEKey || len(r.HPKE.PublicKey) != publicKeySize(r.HPKE.KEM):
		return errors.New("hpke.kem is unknown or hpke.public_key has a wrong size")
	case len(r.SigningKey) != ed25519.PublicKeySize:
		return errors.New("signing_key has a wrong size")
	case !isHashOrEmpty(r.HeaderHash):
		return errors.New("header_hash is not a hexadecimal SHA-256")
	}
	return nil
}

func (g Grant) check() error {
	switch {
	case !isID(g.Lease.ID):
		return errors.New("lease.id is missing or malformed")
	case !isTime(g.Lease.Until) || !isTime(g.Lease.RenewAfter):
		return errors.New("lease times are not RFC 3339 in UTC")
	case len(g.Sealed.Enc) > maxHPKEKey || len(g.Sealed.Ciphertext) > maxCiphertext:
		return errors.New("sealed is too long")
	case len(g.Context.Project) > maxContext || len(g.Context.Volume) > maxContext || !isHashOrEmpty(g.Context.PolicyHash):
		return errors.New("context is malformed")
	case len(g.Receipt) > maxReceipt:
		return errors.New("receipt is too long")
	case len(g.Signature) != ed25519SignatureSize:
		return errors.New("signature has a wrong size")
	}
	return nil
}

func (e Event) check() error {
	switch {
	case e.Seq < 1 || e.Seq > maxSeq:
		return errors.New("seq is out of range")
	case e.Stage != Formatted && e.Stage != Unlocked && e.Stage != Ready && e.Stage != Failed && e.Stage != Stopping:
		return errors.New("stage is unknown")
	case !isHashOrEmpty(e.HeaderHash) || (e.Stage == Formatted) != (e.HeaderHash != ""):
		return errors.New("header_hash belongs to formatted, as a hexadecimal SHA-256, and to nothing else")
	case len(e.Detail) > maxDetail || !isPrintable(e.Detail):
		return errors.New("detail is too long or has control characters")
	case len(e.Signature) != ed25519SignatureSize:
		return errors.New("signature has a wrong size")
	}
	return nil
}

func (a EventAnswer) check() error {
	switch {
	case a.Seq < 1 || a.Seq > maxSeq:
		return errors.New("seq is out of range")
	case len(a.Signature) != 0 && len(a.Signature) != ed25519SignatureSize:
		return errors.New("signature has a wrong size")
	}
	return nil
}

// DecodeChallengeRequest and its siblings parse one whole body strictly: bounded, no unknown or repeated name, nothing
// after the end, every field within its limits.
func DecodeChallengeRequest(body []byte) (ChallengeRequest, error) {
	return decode[ChallengeRequest](body, MaxChallengeRequest, "challenge request")
}

// DecodeChallenge parses the broker's answer; it does not verify it.
func DecodeChallenge(body []byte) (Challenge, error) {
	return decode[Challenge](body, MaxChallenge, "challenge")
}

// DecodeGrantRequest parses what a guest posts to be judged.
func DecodeGrantRequest(body []byte) (GrantRequest, error) {
	return decode[GrantRequest](body, MaxGrantRequest, "grant request")
}

// DecodeGrant parses the broker's answer; it does not verify it.
func DecodeGrant(body []byte) (Grant, error) { return decode[Grant](body, MaxGrant, "grant") }

// DecodeEvent parses what a guest reports; it does not verify it.
func DecodeEvent(body []byte) (Event, error) { return decode[Event](body, MaxEvent, "event") }

// DecodeEventAnswer parses the broker's answer; it does not verify it.
func DecodeEventAnswer(body []byte) (EventAnswer, error) {
	return decode[EventAnswer](body, MaxEventAnswer, "event answer")
}

// FormatTime is the one way a time is written in this door.
func FormatTime(t time.Time) string { return t.UTC().Format(challengeTimeFormat) }

// ParseTime reads what FormatTime wrote.
func ParseTime(s string) (time.Time, error) {
	t, err := time.Parse(challengeTimeFormat, s)
	if err != nil || FormatTime(t) != s {
		return time.Time{}, fmt.Errorf("parsing a time: not RFC 3339 in UTC")
	}
	return t, nil
}

func isTime(s string) bool {
	if len(s) > maxID {
		return false
	}
	_, err := ParseTime(s)
	return err == nil
}

func isID(s string) bool { return len(s) <= maxID && isChallenge(s) }

func isChallenge(s string) bool {
	return s != "" && len(s) <= maxChallenge && strings.Trim(s, idCharacters) == ""
}

func isHashOrEmpty(s string) bool {
	return s == "" || len(s) == headerHashSize && strings.Trim(s, lowerHex) == ""
}

func isPrintable(s string) bool {
	for _, r := range s {
		if r < 0x20 || r == 0x7f || r == '\uFFFD' {
			return false
		}
	}
	return true
}

package kbs

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
)

const (
	// Version of the protocol. There is no negotiation.
	Version = "0.4.0"
	// Prefix of every path.
	Prefix = "/kbs/v0"
	// Cookie names the session.
	Cookie = "kbs-session-id"

	// MaxAuthBody bounds the body of /auth.
	MaxAuthBody = 16 << 10
	// MaxAttestBody bounds that of /attest: a TDX event log is the largest part.
	MaxAttestBody = 1 << 20

	maxNonce      = 128
	maxAdditional = 256 << 10
	maxInitData   = 64 << 10
	maxKeyBytes   = 2 << 10
	maxHashes     = 16
)

// The names of hardware in the protocol that this side accepts.
const (
	TEESNP = "snp"
	TEETDX = "tdx"
)

// Request is the body of /auth.
type Request struct {
	// TEE is TEESNP or TEETDX.
	TEE string
	// Hashes are those that the client offers and this side knows.
	Hashes []Hash
}

// ParseRequest reads the body of /auth. Its error is an *Error.
func ParseRequest(body []byte) (Request, error) {
	if len(body) > MaxAuthBody {
		return Request{}, TooLarge()
	}
	var q Request
	var version, tee string
	err := read(body, func(r *reader) error {
		_, err := r.members(false, []member{
			{name: "version", read: func() (err error) { version, err = r.text(32); return err }},
			{name: "tee", read: func() (err error) { tee, err = r.text(32); return err }},
			{name: "extra-params", read: func() (err error) { q.Hashes, err = r.extraParams(); return err }},
		})
		return err
	})
	if err != nil {
		return Request{}, malformed(fmt.Errorf("reading a request: %w", err))
	}
	if err := judgeTEE(tee); err != nil {
		return Request{}, err
	}
	if version != Version {
		e := AuthFailed(nil)
		e.Detail += ": KBS Client Protocol Version Mismatch: expect =" + Version + " while the request is " + printable(version)
		return Request{}, e
	}
	q.TEE = tee
	return q, nil
}

func malformed(cause error) *Error {
	e := AuthFailed(cause)
	e.Detail += ": deserialize Request"
	return e
}

// judgeTEE refuses evidence that proves nothing by its name, whatever the policy
// would say, and hardware that this side cannot judge.
func judgeTEE(tee string) error {
	refuse := func(why string) error {
		return &Error{Variant: "AttestationError", Status: statusForbidden, Detail: authFailed + ": tee " + tee + " " + why}
	}
	switch tee {
	case TEESNP, TEETDX:
		return nil
	case "sample", "sampledevice":
		return refuse("proves nothing and is refused")
	case "az-snp-vtpm", "az-tdx-vtpm", "sgx", "cca", "csv", "se", "hygondcu", "nvidia", "nvidiadpu", "tpm":
		return refuse("is not supported")
	}
	return malformed(errors.New("a tee that the protocol does not have"))
}

// extraParams may be any value; SVSM sends an empty text.
func (r *reader) extraParams() (hashes []Hash, err error) {
	if r.peek() != '{' {
		return nil, r.skip()
	}
	_, err = r.members(false, []member{{name: "supported-hash-algorithms", optional: true, read: func() error {
		return r.array(maxHashes, func(int) error {
			s, err := r.text(32)
			if h := Hash(s); h == SHA256 || h == SHA384 || h == SHA512 {
				hashes = append(hashes, h)
			}
			return err
		})
	}}})
	return hashes, err
}

// Challenge is the answer to a Request.
type Challenge struct {
	// Nonce is text to the client, which hashes and returns it as it stands.
	Nonce string
	// Hash selects the digest of the binding. Empty and SHA384 select nothing,
	// which is how a stock server answers; clients then use SHA384.
	Hash Hash
}

// NonceText is the form of a nonce on the wire.
func NonceText(nonce [32]byte) string { return base64.StdEncoding.EncodeToString(nonce[:]) }

// JSON writes the answer. extra-params must be there: clients fail without it.
func (c Challenge) JSON() []byte {
	out := appendText([]byte(`{"nonce":`), c.Nonce)
	if c.Hash == "" || c.Hash == SHA384 {
		return append(out, `,"extra-params":""}`...)
	}
	return append(appendText(append(out, `,"extra-params":{"selected-hash-algorithm":`...), string(c.Hash)), "}}"...)
}

// Attest is the body of /attest. Nothing in it is believed.
type Attest struct {
	// InitData is nil if the guest sent none.
	InitData *InitData
	// Nonce has to be that of the session.
	Nonce string
	Key   TEEKey
	// Additional is evidence of devices, as text. It is bound into the report and
	// judged by nobody here.
	Additional string
	primary    json.RawMessage
}

// ParseAttest reads the body of /attest. Its error is an *Error.
func ParseAttest(body []byte) (Attest, error) {
	if len(body) > MaxAttestBody {
		return Attest{}, TooLarge()
	}
	var a Attest
	err := read(body, func(r *reader) error {
		_, err := r.members(false, []member{
			{name: "init-data", optional: true, read: func() (err error) { a.InitData, err = r.initData(); return err }},
			{name: "runtime-data", read: func() error { return r.runtimeData(&a) }},
			{name: "tee-evidence", read: func() error { return r.teeEvidence(&a) }},
		})
		return err
	})
	if err != nil {
		return Attest{}, AttestFailed(fmt.Errorf("reading an attestation: %w", err))
	}
	return a, nil
}

func (r *reader) runtimeData(a *Attest) error {
	_, err := r.members(true, []member{
		{name: "nonce", read: func() (err error) { a.Nonce, err = r.text(maxNonce); return err }},
		{name: "tee-pubkey", read: func() (err error) { a.Key, err = r.teeKey(); return err }},
	})
	return err
}

func (r *reader) teeEvidence(a *Attest) error {
	_, err := r.members(false, []member{
		{name: "primary_evidence", read: func() (err error) {
			if r.peek() != '{' {
				return errSyntax
			}
			a.primary, err = r.raw()
			return err
		}},
		{name: "additional_evidence", read: func() (err error) { a.Additional, err = r.text(maxAdditional); return err }},
	})
	return err
}

// Evidence rebuilds what the hardware signed. tee is that of the session's
// Request: the body does not name it.
func (a Attest) Evidence(tee string) (Evidence, error) { return ParseEvidence(tee, a.primary) }

// ReportData is what the report has to carry for this nonce and key, in the
// dialect that the evidence came in. nonce is the session's own; h is the digest
// that its challenge selected, empty for none. Its error is an *Error.
func (a Attest) ReportData(nonce string, e Evidence, h Hash) (data [64]byte, err error) {
	switch {
	case nonce == "" || a.Nonce != nonce:
		err = errors.New("the nonce is not that of the session")
	case !e.SVSM:
		if h == "" {
			h = SHA384
		}
		data, err = Binding(nonce, a.Key, a.Additional, h)
	case a.Additional != "":
		err = errors.New("additional evidence, which SVSM's digest does not bind")
	default:
		data, err = SVSMBinding(nonce, a.Key)
	}
	if err != nil {
		return [64]byte{}, AttestFailed(err)
	}
	return data, nil
}

// TokenJSON is the answer to a good attestation.
func TokenJSON(token string) []byte {
	return append(appendText([]byte(`{"token":`), token), '}')
}

// ValidSession says whether id has the form of a session of this protocol: 32
// lower-case hexadecimal digits.
func ValidSession(id string) bool {
	if len(id) != 32 {
		return false
	}
	for i := range len(id) {
		if c := id[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

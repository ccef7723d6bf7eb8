package ear

import (
	"encoding/json"
	"errors"
	"time"
)

// Claims is what a token says. Sign fills in issuer, audience and times.
type Claims struct {
	// ID is the decision's, under which it can be found and replayed.
	ID string
	// Nonce is the challenge that the evidence answered.
	Nonce string
	// TEE is the hardware in the protocol's words: "snp" or "tdx".
	TEE string
	// Vector is the judgement in eight parts; the token's status follows from it.
	Vector Vector
	// PolicyHash names the policy document under which it was judged.
	PolicyHash [32]byte
	// TCBStatus and Advisories say how current the platform is.
	TCBStatus   string
	Advisories  []string
	Measurement []byte
	ReportData  []byte
	// InitData is the digest that the guest was launched with, empty for none.
	InitData []byte
	// TEEKey is the guest's key as a JWK in canonical form. Answers to the bearer
	// of the token are sealed to it and to nothing else.
	TEEKey json.RawMessage

	// IssuedAt and Expires are set by Sign and read by Verify.
	IssuedAt, Expires time.Time
}

// Status of an appraisal (draft-ietf-rats-ear, "ear.status").
type Status string

// The tiers, from best to worst; None means that nothing was claimed.
const (
	None            Status = "none"
	Affirming       Status = "affirming"
	Warning         Status = "warning"
	Contraindicated Status = "contraindicated"
)

// Vector is the trustworthiness vector (draft-ietf-rats-ar4si, "trustworthiness
// tiers"): 2 to 31 affirms, 32 to 95 warns, 96 to 127 contraindicates, -2 to -32,
// -33 to -96 and -97 to -128 likewise; -1, 0 and 1 claim nothing.
type Vector struct {
	InstanceIdentity int8 `json:"instance-identity"`
	Configuration    int8 `json:"configuration"`
	Executables      int8 `json:"executables"`
	FileSystem       int8 `json:"file-system"`
	Hardware         int8 `json:"hardware"`
	RuntimeOpaque    int8 `json:"runtime-opaque"`
	StorageOpaque    int8 `json:"storage-opaque"`
	SourcedData      int8 `json:"sourced-data"`
}

// Status is the worst tier of any part.
func (v Vector) Status() Status {
	order := []Status{None, Affirming, Warning, Contraindicated}
	worst := 0
	for _, part := range []int8{
		v.InstanceIdentity, v.Configuration, v.Executables, v.FileSystem,
		v.Hardware, v.RuntimeOpaque, v.StorageOpaque, v.SourcedData,
	} {
		worst = max(worst, tier(part))
	}
	return order[worst]
}

func tier(part int8) int {
	n := int(part)
	if n < 0 {
		n = -n - 1
	}
	switch {
	case part >= -1 && part <= 1:
		return 0
	case n < 32:
		return 1
	case n < 96:
		return 2
	}
	return 3
}

// check refuses claims that would say less than a token has to say.
func (c Claims) check() error {
	switch {
	case len(c.Nonce) < 8 || len(c.Nonce) > 88: // RFC 9711, section 4.1
		return errors.New("the nonce is not one of 8 to 88 characters")
	case c.TEE != "snp" && c.TEE != "tdx":
		return errors.New("the hardware is neither snp nor tdx")
	case c.ID == "":
		return errors.New("no decision is named")
	case c.PolicyHash == [32]byte{}:
		return errors.New("no policy is named")
	case c.Vector.Status() == None:
		return errors.New("the trust vector claims nothing")
	case len(c.ReportData) != 64:
		return errors.New("no report data")
	case len(c.TEEKey) < 2 || c.TEEKey[0] != '{' || !json.Valid(c.TEEKey):
		return errors.New("no key of the guest")
	}
	return nil
}

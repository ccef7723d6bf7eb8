package attest

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// NovaGuestPolicy is the guest policy with which OpenStack Nova launches every
// SEV-SNP guest: SMT allowed, no migration agent, no debugging.
const NovaGuestPolicy uint64 = 0x30000

// Product lines as AMD's certificates name them.
const (
	Milan = "Milan"
	Genoa = "Genoa"
	Turin = "Turin"
)

// Revocation says what a policy asks of AMD's revocation lists.
type Revocation string

const (
	// RevocationRequired is the zero value: without a list that is genuine and
	// valid at the time of the verdict, evidence is refused.
	RevocationRequired Revocation = ""
	// RevocationNotJudged accepts that nobody looked, for sites whose collateral
	// holds no list. AMD revokes the intermediate key only, never a single chip.
	RevocationNotJudged Revocation = "not-judged"
)

// Policy is what one guest must be. It can only narrow the gates that are in the
// code. Its zero value refuses everything; Measurements, ReportData, Chips,
// Products, MinTCB and RequirePolicy must all be set.
type Policy struct {
	// Products lists the product lines that may answer.
	Products []string
	// Chips lists the CHIP_IDs (64 bytes) of the site's registered machines.
	Chips [][]byte
	// Measurements lists the launch digests (48 bytes) of which one must match.
	Measurements [][]byte
	// ReportData must be found in the report, all 64 bytes. It is not part of the
	// policy's canonical form, for it changes with every challenge.
	ReportData [64]byte
	// RequirePolicy is the exact guest policy word, NovaGuestPolicy as a rule.
	RequirePolicy uint64
	// MinTCB is the floor for each product line, for the reported, the committed
	// and the launch TCB. A product line without a floor is refused.
	MinTCB map[string]TCB
	// RequireAliasCheck asks that the firmware has checked memory aliasing (BadRAM).
	RequireAliasCheck bool
	// Revocation says whether revocation lists must have been consulted.
	Revocation Revocation
	// Simulated asks for a report under simulated roots, and for nothing else. It
	// is false for real hardware, where a simulated report is refused.
	Simulated bool
}

// NovaPolicy returns the policy of a guest that Nova launches, still without the
// measurement, the chips and the report data, and so still refusing everything.
func NovaPolicy(minTCB map[string]TCB) Policy {
	return Policy{
		Products:      slices.Sorted(maps.Keys(minTCB)),
		MinTCB:        maps.Clone(minTCB),
		RequirePolicy: NovaGuestPolicy,
		Revocation:    RevocationNotJudged,
	}
}

// policyDocument is the canonical form: lists sorted and without doubles, bytes
// and the policy word in lower-case hex, every member present.
type policyDocument struct {
	Version           int            `json:"version"`
	Products          []string       `json:"products"`
	Chips             []string       `json:"chips"`
	Measurements      []string       `json:"measurements"`
	RequirePolicy     string         `json:"require_policy"`
	MinTCB            map[string]TCB `json:"min_tcb"`
	RequireAliasCheck bool           `json:"require_alias_check"`
	Revocation        string         `json:"revocation"`
	Simulated         bool           `json:"simulated"`
}

const policyVersion = 1

// maxPolicyBytes bounds a stored policy document before it is parsed.
const maxPolicyBytes = 1 << 20

// MarshalJSON gives the canonical form. ReportData is left out of it.
func (p Policy) MarshalJSON() ([]byte, error) {
	revocation := "required"
	if p.Revocation != RevocationRequired {
		revocation = string(p.Revocation)
	}
	floors := p.MinTCB
	if floors == nil {
		floors = map[string]TCB{}
	}
	return json.Marshal(policyDocument{
		Version:           policyVersion,
		Products:          canonical(slices.Clone(p.Products)),
		Chips:             canonical(hexAll(p.Chips)),
		Measurements:      canonical(hexAll(p.Measurements)),
		RequirePolicy:     fmt.Sprintf("0x%x", p.RequirePolicy),
		MinTCB:            floors,
		RequireAliasCheck: p.RequireAliasCheck,
		Revocation:        revocation,
		Simulated:         p.Simulated,
	})
}

// UnmarshalJSON reads the canonical form strictly: unknown members, another
// version and malformed hex are errors.
func (p *Policy) UnmarshalJSON(data []byte) error {
	if len(data) > maxPolicyBytes {
		return fmt.Errorf("reading attestation policy: more than %d bytes", maxPolicyBytes)
	}
	var doc policyDocument
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&doc); err != nil {
		return fmt.Errorf("reading attestation policy: %w", err)
	}
	if doc.Version != policyVersion {
		return fmt.Errorf("reading attestation policy: version %d, want %d", doc.Version, policyVersion)
	}
	word, ok := strings.CutPrefix(doc.RequirePolicy, "0x")
	if !ok {
		return fmt.Errorf("reading attestation policy: require_policy is not hexadecimal")
	}
	guestPolicy, err := strconv.ParseUint(word, 16, 64)
	if err != nil {
		return fmt.Errorf("reading attestation policy: require_policy: %w", err)
	}
	chips, err := unhexAll(doc.Chips, 64)
	if err != nil {
		return fmt.Errorf("reading attestation policy: chips: %w", err)
	}
	measurements, err := unhexAll(doc.Measurements, 48)
	if err != nil {
		return fmt.Errorf("reading attestation policy: measurements: %w", err)
	}
	var revocation Revocation
	switch doc.Revocation {
	case "required":
		revocation = RevocationRequired
	case string(RevocationNotJudged):
		revocation = RevocationNotJudged
	default:
		return fmt.Errorf("reading attestation policy: unknown revocation rule")
	}
	*p = Policy{
		Products:          doc.Products,
		Chips:             chips,
		Measurements:      measurements,
		RequirePolicy:     guestPolicy,
		MinTCB:            doc.MinTCB,
		RequireAliasCheck: doc.RequireAliasCheck,
		Revocation:        revocation,
		Simulated:         doc.Simulated,
	}
	return nil
}

// Hash is the SHA-256 of the canonical form: the policy's name in decisions and
// in what the broker signs.
func (p Policy) Hash() [32]byte {
	// A policyDocument is strings, integers and booleans: encoding cannot fail.
	data, err := p.MarshalJSON()
	if err != nil {
		panic(fmt.Sprintf("encoding attestation policy: %v", err))
	}
	return sha256.Sum256(data)
}

func canonical(list []string) []string {
	if list == nil {
		return []string{}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

func hexAll(list [][]byte) []string {
	out := make([]string, len(list))
	for i, b := range list {
		out[i] = hex.EncodeToString(b)
	}
	return out
}

func unhexAll(list []string, size int) ([][]byte, error) {
	var out [][]byte
	for i, s := range list {
		b, err := hex.DecodeString(s)
		if err != nil {
			return nil, fmt.Errorf("entry %d: %w", i, err)
		}
		if len(b) != size {
			return nil, fmt.Errorf("entry %d has %d bytes, want %d", i, len(b), size)
		}
		out = append(out, b)
	}
	return out, nil
}

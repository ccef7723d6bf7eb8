package attest

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
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

// ProductLines are all of SEV-SNP that can be judged. The processors called Bergamo
// and Siena are Genoa's: its root signs them, and their evidence comes as Genoa.
func ProductLines() []string { return []string{Milan, Genoa, Turin} }

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
	// Platform says how the machine must be configured.
	Platform PlatformRules
	// RequireMitigations lists, as bits, the mitigations that the firmware must have
	// had at launch and still have. Only reports of version 5 can tell.
	RequireMitigations uint64
	// VLEKProvider names the provider (CSP_ID) whose VLEK may sign in place of the
	// chip's own key. Empty refuses every VLEK; named, it refuses every VCEK.
	VLEKProvider string
	// Revocation says whether revocation lists must have been consulted.
	Revocation Revocation
	// TDX is what a trust domain must be; nil refuses every quote.
	TDX *TDXPolicy
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
// and the policy word in lower-case hex, every member present. A policy that uses
// nothing of version 2 is written as version 1, so that the names of policies on
// record stay what they are.
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

type policyDocument2 struct {
	policyDocument
	Platform           *PlatformRules  `json:"platform"`
	RequireMitigations string          `json:"require_mitigations"`
	VLEKProvider       string          `json:"vlek_provider"`
	TDX                json.RawMessage `json:"tdx"`
}

// maxPolicyBytes bounds a stored policy document before it is parsed.
const maxPolicyBytes = 1 << 20

// Canonical is the canonical form, without ReportData.
func (p Policy) Canonical() []byte {
	data, err := p.MarshalJSON()
	if err != nil {
		// The document is strings, integers and booleans: encoding cannot fail.
		panic(fmt.Sprintf("encoding attestation policy: %v", err))
	}
	return data
}

// Hash is the SHA-256 of the canonical form: the policy's name in decisions and
// in what the broker signs.
func (p Policy) Hash() [32]byte { return sha256.Sum256(p.Canonical()) }

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
	doc := policyDocument{
		Version:           1,
		Products:          canonical(slices.Clone(p.Products)),
		Chips:             canonical(hexAll(p.Chips)),
		Measurements:      canonical(hexAll(p.Measurements)),
		RequirePolicy:     hexWord(p.RequirePolicy),
		MinTCB:            floors,
		RequireAliasCheck: p.RequireAliasCheck,
		Revocation:        revocation,
		Simulated:         p.Simulated,
	}
	if p.Platform == (PlatformRules{}) && p.RequireMitigations == 0 && p.VLEKProvider == "" && p.TDX == nil {
		return json.Marshal(doc)
	}
	doc.Version = 2
	tdx := json.RawMessage("null")
	if p.TDX != nil {
		var err error
		if tdx, err = json.Marshal(p.TDX); err != nil {
			return nil, fmt.Errorf("encoding attestation policy: %w", err)
		}
	}
	return json.Marshal(policyDocument2{doc, &p.Platform, hexWord(p.RequireMitigations), p.VLEKProvider, tdx})
}

// ParsePolicy is the strict inverse of the canonical form: nothing but white space
// between tokens may differ from it, so that one policy has one text.
func ParsePolicy(data []byte) (Policy, error) {
	var p Policy
	if err := p.UnmarshalJSON(data); err != nil {
		return Policy{}, err
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, data); err != nil {
		return Policy{}, fmt.Errorf("reading attestation policy: %w", err)
	}
	if !bytes.Equal(compact.Bytes(), p.Canonical()) {
		return Policy{}, errors.New("reading attestation policy: not in canonical form (order of members and lists, doubles, or a member is missing)")
	}
	return p, nil
}

// UnmarshalJSON reads the form: unknown members, another version and malformed
// values are errors.
func (p *Policy) UnmarshalJSON(data []byte) error {
	if len(data) > maxPolicyBytes {
		return fmt.Errorf("reading attestation policy: more than %d bytes", maxPolicyBytes)
	}
	var doc policyDocument2
	if err := strict(data, &doc); err != nil {
		return fmt.Errorf("reading attestation policy: %w", err)
	}
	read, err := doc.policy()
	if err != nil {
		return fmt.Errorf("reading attestation policy: %w", err)
	}
	*p = read
	return nil
}

func (doc policyDocument2) policy() (p Policy, err error) {
	p = Policy{
		Products: doc.Products, MinTCB: doc.MinTCB,
		RequireAliasCheck: doc.RequireAliasCheck, Simulated: doc.Simulated, VLEKProvider: doc.VLEKProvider,
	}
	if p.RequirePolicy, err = unhexWord(doc.RequirePolicy); err != nil {
		return Policy{}, fmt.Errorf("require_policy: %w", err)
	}
	if p.Chips, err = unhexAll(doc.Chips, 64); err != nil {
		return Policy{}, fmt.Errorf("chips: %w", err)
	}
	if p.Measurements, err = unhexAll(doc.Measurements, 48); err != nil {
		return Policy{}, fmt.Errorf("measurements: %w", err)
	}
	switch doc.Revocation {
	case "required":
		p.Revocation = RevocationRequired
	case string(RevocationNotJudged):
		p.Revocation = RevocationNotJudged
	default:
		return Policy{}, errors.New("unknown revocation rule")
	}
	switch doc.Version {
	case 1:
		if doc.Platform != nil || doc.RequireMitigations != "" || doc.VLEKProvider != "" || doc.TDX != nil {
			return Policy{}, errors.New("version 1 has no such members")
		}
		return p, nil
	case 2:
	default:
		return Policy{}, fmt.Errorf("version %d, want 1 or 2", doc.Version)
	}
	if doc.Platform != nil {
		p.Platform = *doc.Platform
	}
	if p.RequireMitigations, err = unhexWord(doc.RequireMitigations); err != nil {
		return Policy{}, fmt.Errorf("require_mitigations: %w", err)
	}
	if !validProvider(doc.VLEKProvider) {
		return Policy{}, errors.New("vlek_provider is not a short word of printable characters")
	}
	if doc.TDX != nil && string(doc.TDX) != "null" {
		p.TDX = new(TDXPolicy)
		if err := strict(doc.TDX, p.TDX); err != nil {
			return Policy{}, fmt.Errorf("tdx: %w", err)
		}
	}
	return p, nil
}

func hexWord(w uint64) string { return fmt.Sprintf("0x%x", w) }

func unhexWord(s string) (uint64, error) {
	digits, ok := strings.CutPrefix(s, "0x")
	if !ok {
		return 0, errors.New("not hexadecimal")
	}
	return strconv.ParseUint(digits, 16, 64)
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

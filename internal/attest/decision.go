package attest

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"
)

// Outcomes of a decision.
const (
	Accepted = "accepted"
	Refused  = "refused"
)

// Decision is a verdict as a value: what was judged, by what, and what came out.
// It holds digests, never evidence, and its JSON form is canonical.
type Decision struct {
	ID      string    `json:"id,omitempty"`
	At      time.Time `json:"at"`
	TEE     TEE       `json:"tee"`
	Outcome string    `json:"outcome"`
	// Code, Check and Detail are those of the first failed check; empty if none is.
	Code   string  `json:"code,omitempty"`
	Check  string  `json:"check,omitempty"`
	Detail string  `json:"detail,omitempty"`
	Checks []Check `json:"checks"`
	// Evidence, Policy and Collateral name what was judged and by what.
	Evidence   Digest `json:"evidence"`
	Policy     Digest `json:"policy"`
	Collateral Digest `json:"collateral"`
	// Objects names each piece of collateral that was at hand.
	Objects []Digest `json:"objects"`
	// Simulated is true for an accepted guest of a demonstration.
	Simulated bool `json:"simulated,omitempty"`
}

// Judge verifies evidence and gives the verdict as a value. It is pure.
func Judge(ev Evidence, col Collateral, pol Policy, at time.Time) Decision {
	res, err := Verify(ev, col, pol, at)
	return Decided(ev, col, pol, at, res, err)
}

// Decided is the decision of a verdict that was already given, by a Verifier for
// example: res and err are what it returned for these inputs.
func Decided(ev Evidence, col Collateral, pol Policy, at time.Time, res *Result, err error) Decision {
	objects := col.About(ev).Objects()
	d := Decision{
		At: at.UTC(), TEE: ev.TEE, Outcome: Refused,
		Evidence: ev.Digest(), Policy: pol.Hash(), Collateral: digestOf(objects), Objects: []Digest{},
	}
	for _, o := range objects {
		d.Objects = append(d.Objects, o.Digest())
	}
	var refusal *Refusal
	switch {
	case err == nil && res != nil:
		d.Outcome, d.Checks, d.Simulated = Accepted, res.Checks, res.Simulated
	case errors.As(err, &refusal):
		d.Code, d.Check, d.Detail, d.Checks = refusal.Code, refusal.Check, refusal.Detail, refusal.Checks
	default:
		// Verify returns nothing else; a caller that does is refused.
		d.Code, d.Detail = CodeFormat, "no verdict was given"
	}
	return d
}

// Digest names the evidence in decisions; the broker's records use the same.
func (ev Evidence) Digest() Digest {
	return sha256.Sum256(prefixed([]byte("siesta/stored-evidence/v1"), []byte(ev.TEE), ev.Report, ev.Certificates, ev.EventLog))
}

// prefixed writes each part after its length, so that two different lists never
// give the same bytes.
func prefixed(parts ...[]byte) []byte {
	var out []byte
	for _, p := range parts {
		out = binary.BigEndian.AppendUint64(out, uint64(len(p)))
		out = append(out, p...)
	}
	return out
}

// Bundle is a decision with everything that it rests on: enough to take it again
// offline, years later. It holds evidence, and is to be kept as such.
type Bundle struct {
	Decision   Decision
	Evidence   Evidence
	Policy     Policy // with its ReportData
	Collateral []Object
	At         time.Time
}

// NewBundle judges and keeps the inputs, of the collateral only what concerns
// this evidence.
func NewBundle(ev Evidence, col Collateral, pol Policy, at time.Time) Bundle {
	return Bundle{Decision: Judge(ev, col, pol, at), Evidence: ev, Policy: pol, Collateral: col.About(ev).Objects(), At: at.UTC()}
}

// Replay takes the decision again under AMD's and Intel's roots. The error says
// what differs from the decision on record; the decision just taken is returned
// in any case in which the inputs could be read.
func (b Bundle) Replay() (Decision, error) { return b.ReplayUnder(AMDRoots()) }

// ReplayUnder is Replay under other roots, for the decisions of a demonstration.
func (b Bundle) ReplayUnder(roots *Roots) (Decision, error) {
	col, err := NewCollateral(roots, b.Collateral)
	if err != nil {
		return Decision{}, fmt.Errorf("replaying decision: %w", err)
	}
	got := Judge(b.Evidence, col, b.Policy, b.At)
	got.ID = b.Decision.ID
	if err := b.Decision.same(got); err != nil {
		return got, fmt.Errorf("replaying decision: %w", err)
	}
	return got, nil
}

// same compares what a replay must reproduce. Advice and section are prose of the
// program that judged, and may read better in a later one.
func (d Decision) same(got Decision) error {
	for _, c := range []struct {
		name      string
		want, got any
	}{
		{"time", d.At.UTC(), got.At},
		{"kind of evidence", d.TEE, got.TEE},
		{"evidence digest", d.Evidence, got.Evidence},
		{"policy hash", d.Policy, got.Policy},
		{"collateral digest", d.Collateral, got.Collateral},
		{"outcome", d.Outcome, got.Outcome},
		{"code", d.Code, got.Code},
		{"check", d.Check, got.Check},
		{"simulated", d.Simulated, got.Simulated},
		{"number of checks", len(d.Checks), len(got.Checks)},
	} {
		if c.want != c.got {
			return fmt.Errorf("%s: on record %v, now %v", c.name, c.want, c.got)
		}
	}
	if !slices.Equal(d.Objects, got.Objects) {
		return errors.New("collateral objects differ")
	}
	for i, was := range d.Checks {
		now := got.Checks[i]
		was.Section, was.Advice, now.Section, now.Advice = "", "", "", ""
		if was != now {
			return fmt.Errorf("check %q: on record %s (%s), now %s (%s)", was.Name, was.Status, was.Got, now.Status, now.Got)
		}
	}
	return nil
}

const (
	bundleVersion  = 1
	maxBundleBytes = 8 << 20
)

type evidenceDocument struct {
	TEE          TEE    `json:"tee"`
	Report       []byte `json:"report"`
	Certificates []byte `json:"certificates"`
	EventLog     []byte `json:"event_log"`
}

type bundleDocument struct {
	Version    int              `json:"version"`
	Decision   Decision         `json:"decision"`
	Evidence   evidenceDocument `json:"evidence"`
	Policy     json.RawMessage  `json:"policy"`
	ReportData []byte           `json:"report_data"`
	Collateral []Object         `json:"collateral"`
	At         time.Time        `json:"at"`
}

// MarshalJSON writes the bundle as one document.
func (b Bundle) MarshalJSON() ([]byte, error) {
	ev := evidenceDocument(b.Evidence)
	objects := b.Collateral
	if objects == nil {
		objects = []Object{}
	}
	return json.Marshal(bundleDocument{bundleVersion, b.Decision, ev, b.Policy.Canonical(), b.Policy.ReportData[:], objects, b.At})
}

// UnmarshalJSON reads a bundle strictly.
func (b *Bundle) UnmarshalJSON(data []byte) error {
	if len(data) > maxBundleBytes {
		return fmt.Errorf("reading decision bundle: more than %d bytes", maxBundleBytes)
	}
	var doc bundleDocument
	if err := strict(data, &doc); err != nil {
		return fmt.Errorf("reading decision bundle: %w", err)
	}
	if doc.Version != bundleVersion {
		return fmt.Errorf("reading decision bundle: version %d, want %d", doc.Version, bundleVersion)
	}
	if len(doc.ReportData) != 64 {
		return fmt.Errorf("reading decision bundle: report data has %d bytes, want 64", len(doc.ReportData))
	}
	p, err := ParsePolicy(doc.Policy)
	if err != nil {
		return fmt.Errorf("reading decision bundle: %w", err)
	}
	p.ReportData = [64]byte(doc.ReportData)
	*b = Bundle{Decision: doc.Decision, Evidence: Evidence(doc.Evidence), Policy: p, Collateral: doc.Collateral, At: doc.At}
	return nil
}

// strict decodes one JSON document: no unknown members, nothing behind it.
func strict(data []byte, into any) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("there is something behind the document")
	}
	return nil
}

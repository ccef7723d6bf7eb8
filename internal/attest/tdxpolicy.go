package attest

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// NovaTDAttributes are the attributes with which OpenStack Nova launches every
// TD: SEPT_VE_DISABLE and nothing else.
const NovaTDAttributes uint64 = tdSEPTVEOff

// quoteForms are the forms that can be judged, as TDXPolicy.Quotes names them.
var quoteForms = []string{quoteForm4, quoteForm5Body10, quoteForm5Body15}

// MaskedBits admits a word whose bits under Mask are those of Value. The zero
// value admits nothing.
type MaskedBits struct{ Mask, Value uint64 }

func (m MaskedBits) admits(w uint64) bool { return m.Mask != 0 && w&m.Mask == m.Value }

func (m MaskedBits) String() string { return fmt.Sprintf("0x%x under mask 0x%x", m.Value, m.Mask) }

// RTMRRule says what one run-time register may hold: one of Values, or, said
// aloud, anything. The zero value admits nothing.
type RTMRRule struct {
	Any    bool
	Values [][]byte
}

// TDXPolicy is what a trust domain must be. It can only narrow the gates that are
// in the code, and its zero value refuses everything: Quotes, Platforms, MRTDs,
// RTMRs, Attributes, XFAM and TCBStatuses must all be set. Report data and the
// choice of simulated hardware are those of Policy.
type TDXPolicy struct {
	// Quotes lists the forms that are admitted: "v4", "v5-tdx1.0", "v5-tdx1.5".
	Quotes []string
	// Platforms lists the PPIDs (16 bytes) of the site's registered machines.
	Platforms [][]byte
	// MRTDs lists the measurements (48 bytes) of the firmware at launch.
	MRTDs [][]byte
	RTMRs [4]RTMRRule
	// Attributes and XFAM are judged after the code's own gates, which refuse
	// debugging, migration and bits that are not known.
	Attributes, XFAM MaskedBits
	// MRConfigID, MROwner and MROwnerConfig must be found as they stand here; zero,
	// as Nova launches guests, asks for zero.
	MRConfigID, MROwner, MROwnerConfig [48]byte
	// ServiceTDs lists the service TDs (MRSERVICETD, 48 bytes) that may be bound to
	// the guest; none as a rule.
	ServiceTDs [][]byte
	// TCBStatuses lists Intel's words that are admitted, "UpToDate" as a rule.
	// "Revoked" cannot be among them.
	TCBStatuses []string
	// MinEvaluationNumber is a floor for Intel's data set; zero is no floor.
	MinEvaluationNumber int
	// RequireEventLog refuses a quote without a log that gives its registers.
	RequireEventLog bool
	// CommandLine is the line of a directly booted kernel, without what OVMF adds.
	// With it the policy must name the kernel (RTMRs[1]) and Initrds, and the event
	// log is needed: this is how a guest is bound to its workspace.
	CommandLine string
	// Initrds lists the SHA-384 digests of initrds, for use with CommandLine.
	Initrds [][]byte
}

// NovaTDXPolicy returns the policy of a TD that Nova launches, still without
// platforms, measurements, registers and processor features, and so still
// refusing everything.
func NovaTDXPolicy() TDXPolicy {
	return TDXPolicy{
		Quotes:      slices.Clone(quoteForms),
		Attributes:  MaskedBits{Mask: ^uint64(0), Value: NovaTDAttributes},
		TCBStatuses: []string{tcbUpToDate.String()},
	}
}

func (p *TDXPolicy) needsEventLog() bool {
	return p.RequireEventLog || p.CommandLine != "" || len(p.Initrds) > 0
}

type maskedDocument struct {
	Mask  string `json:"mask"`
	Value string `json:"value"`
}

type rtmrDocument struct {
	Any    bool     `json:"any"`
	Values []string `json:"values"`
}

// tdxPolicyDocument is the canonical form: as policyDocument.
type tdxPolicyDocument struct {
	Quotes              []string       `json:"quotes"`
	Platforms           []string       `json:"platforms"`
	MRTDs               []string       `json:"mrtd"`
	RTMRs               []rtmrDocument `json:"rtmr"`
	Attributes          maskedDocument `json:"attributes"`
	XFAM                maskedDocument `json:"xfam"`
	MRConfigID          string         `json:"mrconfigid"`
	MROwner             string         `json:"mrowner"`
	MROwnerConfig       string         `json:"mrownerconfig"`
	ServiceTDs          []string       `json:"service_tds"`
	TCBStatuses         []string       `json:"tcb_statuses"`
	MinEvaluationNumber int            `json:"min_evaluation_number"`
	RequireEventLog     bool           `json:"require_event_log"`
	CommandLine         string         `json:"command_line"`
	Initrds             []string       `json:"initrds"`
}

// maxCommandLine is Nova's: a longer line would not survive a hard reboot.
const maxCommandLine = 255

// MarshalJSON gives the canonical form.
func (p TDXPolicy) MarshalJSON() ([]byte, error) {
	doc := tdxPolicyDocument{
		Quotes: canonical(slices.Clone(p.Quotes)), Platforms: canonical(hexAll(p.Platforms)), MRTDs: canonical(hexAll(p.MRTDs)),
		Attributes: p.Attributes.document(), XFAM: p.XFAM.document(),
		MRConfigID: hex.EncodeToString(p.MRConfigID[:]), MROwner: hex.EncodeToString(p.MROwner[:]), MROwnerConfig: hex.EncodeToString(p.MROwnerConfig[:]),
		ServiceTDs: canonical(hexAll(p.ServiceTDs)), TCBStatuses: canonical(slices.Clone(p.TCBStatuses)),
		MinEvaluationNumber: p.MinEvaluationNumber, RequireEventLog: p.RequireEventLog,
		CommandLine: p.CommandLine, Initrds: canonical(hexAll(p.Initrds)),
	}
	for _, r := range p.RTMRs {
		doc.RTMRs = append(doc.RTMRs, rtmrDocument{r.Any, canonical(hexAll(r.Values))})
	}
	return json.Marshal(doc)
}

// UnmarshalJSON reads the canonical form strictly.
func (p *TDXPolicy) UnmarshalJSON(data []byte) error {
	if len(data) > maxPolicyBytes {
		return fmt.Errorf("reading TDX policy: more than %d bytes", maxPolicyBytes)
	}
	var doc tdxPolicyDocument
	if err := strict(data, &doc); err != nil {
		return fmt.Errorf("reading TDX policy: %w", err)
	}
	out := TDXPolicy{
		Quotes: doc.Quotes, TCBStatuses: doc.TCBStatuses, MinEvaluationNumber: doc.MinEvaluationNumber,
		RequireEventLog: doc.RequireEventLog, CommandLine: doc.CommandLine,
	}
	var err error
	fail := func(member string, err error) error { return fmt.Errorf("reading TDX policy: %s: %w", member, err) }
	for _, l := range []struct {
		member string
		to     *[][]byte
		from   []string
		size   int
	}{
		{"platforms", &out.Platforms, doc.Platforms, tdPPIDSize},
		{"mrtd", &out.MRTDs, doc.MRTDs, 48},
		{"service_tds", &out.ServiceTDs, doc.ServiceTDs, 48},
		{"initrds", &out.Initrds, doc.Initrds, 48},
	} {
		if *l.to, err = unhexAll(l.from, l.size); err != nil {
			return fail(l.member, err)
		}
	}
	for _, f := range []struct {
		member string
		to     *[48]byte
		from   string
	}{{"mrconfigid", &out.MRConfigID, doc.MRConfigID}, {"mrowner", &out.MROwner, doc.MROwner}, {"mrownerconfig", &out.MROwnerConfig, doc.MROwnerConfig}} {
		b, err := sized(f.from, 48)
		if err != nil {
			return fail(f.member, err)
		}
		*f.to = [48]byte(b)
	}
	if len(doc.RTMRs) != len(out.RTMRs) {
		return fail("rtmr", errors.New("there are four registers"))
	}
	for i, r := range doc.RTMRs {
		if out.RTMRs[i].Values, err = unhexAll(r.Values, 48); err != nil {
			return fail("rtmr", err)
		}
		if out.RTMRs[i].Any = r.Any; r.Any && len(r.Values) > 0 {
			return fail("rtmr", errors.New("a register that may hold anything has no values"))
		}
	}
	if out.Attributes, err = doc.Attributes.read(); err != nil {
		return fail("attributes", err)
	}
	if out.XFAM, err = doc.XFAM.read(); err != nil {
		return fail("xfam", err)
	}
	if err := out.check(); err != nil {
		return fmt.Errorf("reading TDX policy: %w", err)
	}
	*p = out
	return nil
}

// check refuses what no policy may say.
func (p *TDXPolicy) check() error {
	for _, f := range p.Quotes {
		if !slices.Contains(quoteForms, f) {
			return fmt.Errorf("quotes: %q is none of %s", f, strings.Join(quoteForms, ", "))
		}
	}
	for _, s := range p.TCBStatuses {
		if !admissible(s) {
			return fmt.Errorf("tcb_statuses: %q is not a status that a policy can admit", s)
		}
	}
	if p.MinEvaluationNumber < 0 {
		return errors.New("min_evaluation_number: below zero")
	}
	if err := checkLine(p.CommandLine); err != nil {
		return err
	}
	if p.CommandLine != "" && (len(p.Initrds) == 0 || len(p.RTMRs[registerOfKernel].Values) == 0) || p.CommandLine == "" && len(p.Initrds) > 0 {
		return errors.New("command_line: line, initrds and rtmr 1 (the kernel) go together")
	}
	return nil
}

// checkLine refuses a line that could be measured in another form than it is written.
func checkLine(line string) error {
	if len(line) > maxCommandLine || strings.ContainsFunc(line, func(r rune) bool { return r < ' ' || r > '~' }) {
		return fmt.Errorf("command_line: more than %d bytes, or not printable ASCII", maxCommandLine)
	}
	return nil
}

// TCBStatuses are Intel's words that a policy can admit, in alphabetical order.
func TCBStatuses() (words []string) {
	for s, name := range tcbStatusNames {
		if s != tcbRevoked {
			words = append(words, name)
		}
	}
	slices.Sort(words)
	return words
}

func admissible(status string) bool { return slices.Contains(TCBStatuses(), status) }

func (m MaskedBits) document() maskedDocument {
	return maskedDocument{bits(m.Mask), bits(m.Value)}
}

func (d maskedDocument) read() (MaskedBits, error) {
	var m MaskedBits
	for _, f := range []struct {
		to   *uint64
		from string
	}{{&m.Mask, d.Mask}, {&m.Value, d.Value}} {
		word, ok := strings.CutPrefix(f.from, "0x")
		if !ok {
			return m, errors.New("not hexadecimal")
		}
		w, err := strconv.ParseUint(word, 16, 64)
		if err != nil {
			return m, errors.New("not a word in hexadecimal")
		}
		*f.to = w
	}
	if m.Value&^m.Mask != 0 {
		return m, errors.New("the value has bits that the mask has not")
	}
	return m, nil
}

// narrows says whether everything that p admits is admitted by parent.
func (p *TDXPolicy) narrows(parent *TDXPolicy) error {
	wider := func(what string) error { return fmt.Errorf("wider: %s", what) }
	switch {
	case !subsetOf(p.Quotes, parent.Quotes):
		return wider("a form of the quote is not one of the parent's")
	case !subset(p.Platforms, parent.Platforms):
		return wider("a platform is not one of the parent's")
	case !subset(p.MRTDs, parent.MRTDs):
		return wider("a launch measurement is not one of the parent's")
	case !p.Attributes.narrows(parent.Attributes):
		return wider("the parent asks for other attributes")
	case !p.XFAM.narrows(parent.XFAM):
		return wider("the parent asks for other processor features")
	case p.MRConfigID != parent.MRConfigID || p.MROwner != parent.MROwner || p.MROwnerConfig != parent.MROwnerConfig:
		return wider("the parent asks for another configuration id, owner or owner's configuration")
	case !subset(p.ServiceTDs, parent.ServiceTDs):
		return wider("a service TD is not one of the parent's")
	case !subsetOf(p.TCBStatuses, parent.TCBStatuses):
		return wider("a TCB status is not one of the parent's")
	case p.MinEvaluationNumber < parent.MinEvaluationNumber:
		return wider("the parent's floor for the evaluation data number is higher")
	case parent.RequireEventLog && !p.needsEventLog():
		return wider("the parent asks for the event log")
	case parent.CommandLine != "" && p.CommandLine != parent.CommandLine:
		return wider("the parent names another command line")
	case len(parent.Initrds) > 0 && (len(p.Initrds) == 0 || !subset(p.Initrds, parent.Initrds)):
		return wider("an initrd is not one of the parent's")
	}
	for i := range p.RTMRs {
		mine, theirs := p.RTMRs[i], parent.RTMRs[i]
		if !theirs.Any && (mine.Any || !subset(mine.Values, theirs.Values)) {
			return wider(fmt.Sprintf("the parent asks for other values of RTMR%d", i))
		}
	}
	return nil
}

func (m MaskedBits) narrows(parent MaskedBits) bool {
	return m.Mask == 0 || parent.Mask != 0 && m.Mask&parent.Mask == parent.Mask && m.Value&parent.Mask == parent.Value
}

func subsetOf(list, of []string) bool {
	return !slices.ContainsFunc(list, func(s string) bool { return !slices.Contains(of, s) })
}

package attest

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strings"
	"testing"
)

// TestSignedBodies takes Intel's answers apart by their exact form.
func TestSignedBodies(t *testing.T) {
	s := newSoftTD(t)
	chain := Object{KindTCBChain, s.pem(s.signer, s.root.cert)}
	good := s.statement(tcbInfoMember, s.info)
	c, err := newTDXCollateralUnder(s.root, []Object{chain})
	if err != nil {
		t.Fatal(err)
	}
	tail := len(good) - len(`,"signature":"`) - 128 - len(`"}`)
	signature := string(good[tail+len(`,"signature":"`) : len(good)-2])
	body := string(good[len(`{"tcbInfo":`):tail])
	answer := func(head, body, middle, signature, end string) string { return head + body + middle + signature + end }
	least := string(s.sign(s.signKey, []byte("{}")))
	for name, row := range map[string]struct {
		text string
		word string
	}{
		"good":                    {string(good), ""},
		"with a new line behind":  {string(good) + "\r\n", ""},
		"the least that there is": {answer(`{"tcbInfo":`, `{}`, `,"signature":"`, hex.EncodeToString([]byte(least)), `"}`), ""},
		"a body of one byte":      {answer(`{"tcbInfo":`, `{`, `,"signature":"`, signature, `"}`), "it is not tcbInfo with its signature"},
		"another member":          {answer(`{"tcbinfo":`, body, `,"signature":"`, signature, `"}`), "it is not tcbInfo with its signature"},
		"another second member":   {answer(`{"tcbInfo":`, body, `,"Signature":"`, signature, `"}`), "lower-case hex"},
		"another end":             {answer(`{"tcbInfo":`, body, `,"signature":"`, signature, `"]`), "lower-case hex"},
		"signature in upper case": {answer(`{"tcbInfo":`, body, `,"signature":"`, strings.ToUpper(signature), `"}`), "lower-case hex"},
		"signature that is none":  {answer(`{"tcbInfo":`, body, `,"signature":"`, strings.Repeat("x", 128), `"}`), "lower-case hex"},
		"a body that is an array": {answer(`{"tcbInfo":`, "["+body[1:], `,"signature":"`, signature, `"}`), "lower-case hex"},
		"a body without its end":  {answer(`{"tcbInfo":`, body[:len(body)-1]+" ", `,"signature":"`, signature, `"}`), "lower-case hex"},
		"another body":            {answer(`{"tcbInfo":`, "{ "+body[1:], `,"signature":"`, signature, `"}`), "none of the signing certificates"},
		"nothing":                 {"", "it is not tcbInfo with its signature"},
	} {
		got, by, err := c.signedBody([]byte(row.text), tcbInfoMember)
		if (err == nil) != (row.word == "") || err != nil && !strings.Contains(err.Error(), row.word) || err == nil && (!by.Equal(s.signer) || got[0] != '{') {
			t.Errorf("%s: %v", name, err)
		}
	}
	for kind, member := range map[string]string{KindTCBInfo: tcbInfoMember, KindQEIdentity: qeIdentityMember} {
		raw := s.statement(member, map[string]any{"id": "other"})
		if _, err := newTDXCollateralUnder(s.root, []Object{chain, {kind, raw}}); err == nil || !strings.Contains(err.Error(), "it is not T") {
			t.Errorf("%s: %v", kind, err)
		}
	}
	// A document with one member gives one object, and a collateral with none an empty document.
	for member, kind := range map[string]string{"root_ca_crl": KindIntelRootCRL, "pck_crl": KindPCKCRL} {
		got, err := TDXObjects([]byte(`{"` + member + `":"00"}`))
		if err != nil || len(got) != 1 || got[0].Kind != kind {
			t.Errorf("%s: %v, %v", member, got, err)
		}
	}
	if data, err := (&TDXCollateral{}).Document(); err != nil || !bytes.Contains(data, []byte(`"tcb_info":""`)) {
		t.Errorf("%s, %v", data, err)
	}
	short := &TDXCollateral{raw: []Object{{KindTCBInfo, []byte(`{}`)}}}
	if data, err := short.Document(); err != nil || !bytes.Contains(data, []byte(`"tcb_info":""`)) {
		t.Errorf("%s, %v", data, err)
	}
	if got, err := TDXObjects([]byte(`{}`)); err != nil || len(got) != 0 {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := ParseTDXCollateral([]byte("{")); err == nil || !strings.Contains(err.Error(), "not one JSON object") {
		t.Errorf("%v", err)
	}
}

// TestIntelsListsAreBounded: 256 levels, modules and advisories, and one more of each.
func TestIntelsListsAreBounded(t *testing.T) {
	s := newSoftTD(t)
	times := func(v any, n int) []any { return slices.Repeat([]any{v}, n) }
	ids := func(n int) []string { return slices.Repeat([]string{"SA"}, n) }
	one := softLevel(softComponents, []byte{5}, 13, "UpToDate")
	info := func(member string, v any) func(int) error {
		return func(int) error {
			m := map[string]any{"issueDate": "2026-01-01T00:00:00Z", "nextUpdate": "2027-01-01T00:00:00Z"}
			for k, x := range s.info {
				m[k] = x
			}
			m[member] = v
			data, err := json.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			got, err := parseTCBInfo(data)
			if err == nil && (len(got.levels) == 0 || got.levels[0].pceSVN != 13 || !bytes.Equal(got.levels[0].sgx, softComponents)) {
				t.Errorf("%s: %+v", member, got.levels)
			}
			return err
		}
	}
	level := func(sgx, tdx int) map[string]any {
		l := softLevel(softComponents, []byte{5}, 13, "UpToDate")
		tcb := l["tcb"].(map[string]any)
		tcb["sgxtcbcomponents"], tcb["tdxtcbcomponents"] = times(map[string]any{"svn": 3}, sgx), times(map[string]any{"svn": 3}, tdx)
		return l
	}
	moduleWith := func(member, value string) map[string]any {
		m := softModule("TDX_01", []any{softISV(1, "UpToDate")})
		m[member] = value
		return m
	}
	for name, c := range map[string]struct {
		read func(int) error
		ok   bool
	}{
		"256 levels":           {info("tcbLevels", times(one, 256)), true},
		"257 levels":           {info("tcbLevels", times(one, 257)), false},
		"256 modules":          {info("tdxModuleIdentities", times(softModule("TDX_01", []any{softISV(1, "UpToDate")}), 256)), true},
		"257 modules":          {info("tdxModuleIdentities", times(softModule("TDX_01", []any{softISV(1, "UpToDate")}), 257)), false},
		"256 levels of one":    {info("tdxModuleIdentities", []any{softModule("TDX_01", times(softISV(1, "UpToDate"), 256))}), true},
		"257 levels of one":    {info("tdxModuleIdentities", []any{softModule("TDX_01", times(softISV(1, "UpToDate"), 257))}), false},
		"256 advisories":       {info("tcbLevels", []any{softLevel(softComponents, []byte{5}, 13, "UpToDate", ids(256)...)}), true},
		"257 advisories":       {info("tcbLevels", []any{softLevel(softComponents, []byte{5}, 13, "UpToDate", ids(257)...)}), false},
		"15 SGX components":    {info("tcbLevels", []any{level(15, 16)}), false},
		"17 SGX components":    {info("tcbLevels", []any{level(17, 16)}), false},
		"15 TDX components":    {info("tcbLevels", []any{level(16, 15)}), false},
		"17 TDX components":    {info("tcbLevels", []any{level(16, 17)}), false},
		"a signer of one byte": {info("tdxModuleIdentities", []any{moduleWith("mrsigner", "00")}), false},
		"an attribute of one":  {info("tdxModuleIdentities", []any{moduleWith("attributes", "00")}), false},
		"an unknown status":    {info("tdxModuleIdentities", []any{softModule("TDX_01", []any{softISV(1, "Fine")})}), false},
		"a mask of one byte":   {info("tdxModuleIdentities", []any{moduleWith("attributesMask", "00")}), false},
		"a module of no level": {info("tdxModuleIdentities", []any{softModule("TDX_01", []any{})}), false},
		"no JSON":              {func(int) error { _, err := parseQEIdentity([]byte("{")); return err }, false},
	} {
		if err := c.read(0); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, m := range []masked{{[]byte{1}, []byte{1, 1}}, {[]byte{1, 1}, []byte{1}}, {[]byte{1}, []byte{1}}} {
		if m.admits([]byte{1, 1}) {
			t.Errorf("%v admits two bytes", m)
		}
	}
	for id, version := range map[string]byte{"TDX_0A": 10, "TDX_FF": 255} {
		info := tcbInfo{modules: []moduleIdentity{{id: id}}}
		if info.module(version) == nil || info.module(version-1) != nil {
			t.Errorf("%s is not version %d", id, version)
		}
	}
}

// TestTDXPolicyEdges: what a policy may just say, and what it may not.
func TestTDXPolicyEdges(t *testing.T) {
	kernel := []RTMRRule{{}, {Values: [][]byte{make([]byte, 48)}}, {}, {}}
	initrd := [][]byte{make([]byte, 48)}
	for name, c := range map[string]struct {
		change func(*TDXPolicy)
		ok     bool
	}{
		"a line of 255 bytes":            {func(p *TDXPolicy) { p.CommandLine = strings.Repeat("x", 255) }, true},
		"a line of 256 bytes":            {func(p *TDXPolicy) { p.CommandLine = strings.Repeat("x", 256) }, false},
		"a line from space to tilde":     {func(p *TDXPolicy) { p.CommandLine = " ~" }, true},
		"a line with a control":          {func(p *TDXPolicy) { p.CommandLine = "\x1f" }, false},
		"a line with DEL":                {func(p *TDXPolicy) { p.CommandLine = "\x7f" }, false},
		"a line without an initrd":       {func(p *TDXPolicy) { p.Initrds = nil }, false},
		"a line without a kernel":        {func(p *TDXPolicy) { p.RTMRs[1] = RTMRRule{} }, false},
		"a line with other registers":    {func(p *TDXPolicy) { p.RTMRs = [4]RTMRRule{kernel[1], {}, kernel[1], kernel[1]} }, false},
		"an initrd without a line":       {func(p *TDXPolicy) { p.CommandLine = "" }, false},
		"neither":                        {func(p *TDXPolicy) { p.CommandLine, p.Initrds = "", nil }, true},
		"no floor for the data set":      {func(p *TDXPolicy) { p.MinEvaluationNumber = 0 }, true},
		"a floor of one":                 {func(p *TDXPolicy) { p.MinEvaluationNumber = 1 }, true},
		"a floor below zero":             {func(p *TDXPolicy) { p.MinEvaluationNumber = -1 }, false},
		"a status that nobody publishes": {func(p *TDXPolicy) { p.TCBStatuses = []string{"Fine"} }, false},
	} {
		p := NovaTDXPolicy()
		copy(p.RTMRs[:], kernel)
		p.CommandLine, p.Initrds = "quiet", initrd
		c.change(&p)
		if err := p.check(); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
	good, err := json.Marshal(NovaTDXPolicy())
	if err != nil {
		t.Fatal(err)
	}
	empty := `{"any":false,"values":[]}`
	four, three := strings.Repeat(empty+",", 3)+empty, empty+","+empty+","+empty
	half := strings.Repeat("00", 48) + "0"
	for name, change := range map[string][2]string{
		"three registers":         {four, three},
		"five registers":          {four, four + "," + empty},
		"half a byte of a value":  {empty, `{"any":false,"values":["` + half + `"]}`},
		"an owner of 47 bytes":    {`"mrowner":"00`, `"mrowner":"`},
		"a mask without 0x":       {`"mask":"0xffffffffffffffff"`, `"mask":"ffffffffffffffff"`},
		"a mask that is no word":  {`"mask":"0xffffffffffffffff"`, `"mask":"0x1ffffffffffffffff"`},
		"an XFAM that is no word": {`"xfam":{"mask":"0x0"`, `"xfam":{"mask":"0x"`},
	} {
		text := strings.Replace(string(good), change[0], change[1], 1)
		if text == string(good) {
			t.Fatalf("%s: %s is not in %s", name, change[0], good)
		}
		p := TDXPolicy{CommandLine: "untouched"}
		if err := p.UnmarshalJSON([]byte(text)); err == nil || p.CommandLine != "untouched" {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, c := range map[string]struct {
		parent, child func(*TDXPolicy)
		word          string
	}{
		"no log under a parent that asks":       {func(p *TDXPolicy) { p.RequireEventLog = true }, func(*TDXPolicy) {}, "asks for the event log"},
		"a log under a parent that asks":        {func(p *TDXPolicy) { p.RequireEventLog = true }, func(p *TDXPolicy) { p.RequireEventLog = true }, ""},
		"a line, which needs the log":           {func(p *TDXPolicy) { p.RequireEventLog = true }, func(p *TDXPolicy) { p.CommandLine = "x" }, ""},
		"an initrd, which needs the log":        {func(p *TDXPolicy) { p.RequireEventLog = true }, func(p *TDXPolicy) { p.Initrds = initrd }, ""},
		"another initrd":                        {func(p *TDXPolicy) { p.Initrds = initrd }, func(p *TDXPolicy) { p.Initrds = [][]byte{{1}} }, "an initrd is not"},
		"no initrd":                             {func(p *TDXPolicy) { p.Initrds = initrd }, func(*TDXPolicy) {}, "an initrd is not"},
		"one of two initrds":                    {func(p *TDXPolicy) { p.Initrds = [][]byte{{1}, initrd[0]} }, func(p *TDXPolicy) { p.Initrds = initrd }, ""},
		"a mask of nothing":                     {func(*TDXPolicy) {}, func(p *TDXPolicy) { p.XFAM, p.Attributes = MaskedBits{}, MaskedBits{} }, ""},
		"a mask under a parent that has no bit": {func(p *TDXPolicy) { p.XFAM = MaskedBits{} }, func(p *TDXPolicy) { p.XFAM = MaskedBits{1, 1} }, "other processor features"},
		"a configuration id":                    {func(*TDXPolicy) {}, func(p *TDXPolicy) { p.MRConfigID[0] = 1 }, "configuration id"},
		"an owner's configuration":              {func(*TDXPolicy) {}, func(p *TDXPolicy) { p.MROwnerConfig[0] = 1 }, "configuration id"},
	} {
		parent, child := NovaTDXPolicy(), NovaTDXPolicy()
		c.parent(&parent)
		c.child(&child)
		err := child.narrows(&parent)
		if (err == nil) != (c.word == "") || err != nil && !strings.Contains(err.Error(), c.word) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

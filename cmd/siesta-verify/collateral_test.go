package main

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"net/url"
	"strings"
	"testing"
)

// tdxPair is a genuine quote with the collateral of its time.
const (
	tdxQuote      = data + "tdx/v4-quote-uptodate.dat"
	tdxCollateral = "tdx/v4-quote-uptodate-collateral.json"
)

// TestCollateralForms: however Intel's objects are written down, the same bytes
// are read.
func TestCollateralForms(t *testing.T) {
	text := load(t, tdxCollateral)
	want, err := readIntel(text)
	if err != nil {
		t.Fatal(err)
	}
	for name, o := range map[string][]byte{
		"pck crl": want.pckCRL, "root crl": want.rootCRL, "tcb info": want.tcbInfo,
		"tcb chain": want.tcbChain, "qe identity": want.qeIdentity, "qe chain": want.qeChain,
	} {
		if len(o) == 0 {
			t.Errorf("%s is missing", name)
		}
	}
	change := func(f func(m map[string]any)) []byte {
		var m map[string]any
		if err := json.Unmarshal(text, &m); err != nil {
			t.Fatal(err)
		}
		f(m)
		out, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	der := func(m map[string]any, name string) []byte {
		b, err := hex.DecodeString(m[name].(string))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	answer := func(m map[string]any, name, inner string) string {
		return `{"` + inner + `":` + m[name].(string) + `,"signature":"` + m[name+"_signature"].(string) + `"}`
	}
	for name, row := range map[string][]byte{
		"blanks around": append([]byte("\n "), append(text, '\n')...),
		"Intel's answers in strings": change(func(m map[string]any) {
			m["tcb_info"], m["qe_identity"] = answer(m, "tcb_info", "tcbInfo"), answer(m, "qe_identity", "enclaveIdentity")
			delete(m, "tcb_info_signature")
			delete(m, "qe_identity_signature")
		}),
		"the library's zeros": change(func(m map[string]any) {
			for name := range m {
				if !strings.HasSuffix(name, "_signature") {
					m[name] = m[name].(string) + "\x00"
				}
			}
			m["version"], m["tee_type"] = 3, 0x81
		}),
		"base64": change(func(m map[string]any) {
			m["pck_crl"] = base64.StdEncoding.EncodeToString(der(m, "pck_crl"))
		}),
		"PEM": change(func(m map[string]any) {
			m["root_ca_crl"] = string(pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der(m, "root_ca_crl")}))
		}),
		"chains as in headers": change(func(m map[string]any) {
			m["tcb_info_issuer_chain"] = url.PathEscape(m["tcb_info_issuer_chain"].(string))
		}),
	} {
		got, err := readIntel(row)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for _, pair := range [][2][]byte{
			{got.pckCRL, want.pckCRL},
			{got.rootCRL, want.rootCRL},
			{got.tcbInfo, want.tcbInfo},
			{got.tcbChain, want.tcbChain},
			{got.qeIdentity, want.qeIdentity},
			{got.qeChain, want.qeChain},
		} {
			if !bytes.Equal(pair[0], pair[1]) {
				t.Errorf("%s: read other bytes", name)
			}
		}
	}
	// A document that is an object, made pretty on the way.
	var m map[string]any
	if err := json.Unmarshal(text, &m); err != nil {
		t.Fatal(err)
	}
	var pretty bytes.Buffer
	if err := json.Indent(&pretty, []byte(`{"tcb_info":`+answer(m, "tcb_info", "tcbInfo")+`}`), "", "    "); err != nil {
		t.Fatal(err)
	}
	if got, err := readIntel(pretty.Bytes()); err != nil || !bytes.Equal(got.tcbInfo, want.tcbInfo) {
		t.Errorf("made pretty: %v", err)
	}
	if got, err := readIntel([]byte(`{"pck_crl":null,"tcb_info":` + answer(m, "tcb_info", "tcbInfo") + `}`)); err != nil || got.pckCRL != nil {
		t.Errorf("in part: %v", err)
	}
}

func TestBadCollateral(t *testing.T) {
	for name, row := range map[string]struct{ text, says string }{
		"empty":              {" ", "empty"},
		"no object":          {`[]`, "no object"},
		"no JSON":            {`hello`, "breaks at byte"},
		"other JSON":         {`{"tcbInfos":1}`, "member names"},
		"all null":           {`{"tcb_info":null}`, "member names"},
		"twice":              {`{"pck_crl":"30","pck_crl":"30"}`, "twice"},
		"deep":               {`{"tcb_info":` + strings.Repeat("[", 100000), "nested deeper"},
		"deep in a string":   {`{"tcb_info":"` + strings.Repeat("[", 100000) + `"}`, "nested deeper"},
		"list a number":      {`{"pck_crl":5}`, "its pck_crl is no text"},
		"list no list":       {`{"root_ca_crl":"hello"}`, "its root_ca_crl is no revocation list"},
		"list empty":         {`{"root_ca_crl":""}`, "is no text"},
		"chain no PEM":       {`{"pck_crl_issuer_chain":"3082"}`, "is no PEM"},
		"chain badly coded":  {`{"pck_crl_issuer_chain":"%0A%zz"}`, "percent-encoded"},
		"no signature":       {`{"tcb_info":"{\"id\":\"TDX\"}"}`, "without its signature"},
		"signature no hex":   {`{"tcb_info":"{}","tcb_info_signature":"xyz"}`, "no hex"},
		"document no object": {`{"qe_identity":"5","qe_identity_signature":"00"}`, "its qe_identity cannot be read"},
		"document cut":       {`{"qe_identity":"{","qe_identity_signature":"00"}`, "its qe_identity cannot be read"},
	} {
		if _, err := readIntel([]byte(row.text)); err == nil || !strings.Contains(err.Error(), row.says) {
			t.Errorf("%s: %v does not say %q", name, err, row.says)
		}
	}
}

func FuzzCollateral(f *testing.F) {
	// The whole of a genuine file would keep the fuzzer busy with making it small.
	for _, seed := range []string{
		`{"tcb_info":{"tcbInfo":{"id":"TDX"},"signature":"00"},"pck_crl":"3000"}`,
		`{"qe_identity":"{\"id\":\"TD_QE\"}","qe_identity_signature":"00","root_ca_crl":"MAA="}`,
		`{"tcb_info_issuer_chain":"-----BEGIN CERTIFICATE-----%0AMAA=%0A-----END CERTIFICATE-----%0A"}`,
		`{"tcb_info":"{\"tcbInfo\":{ },\"signature\":\"00\"}\u0000","version":3}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := readIntel(text)
		if err != nil {
			return
		}
		for _, doc := range [][]byte{c.tcbInfo, c.qeIdentity} {
			if doc != nil && !json.Valid(doc) {
				t.Errorf("made %q", doc)
			}
		}
	})
}

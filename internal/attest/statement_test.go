package attest

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestNeeds: what is looked up for evidence that nobody has proved.
func TestNeeds(t *testing.T) {
	all := bytes.Repeat([]byte("c1"), 64)
	for _, c := range []struct {
		line    string
		version uint32
		alter   func([]byte)
		want    []Subject
	}{
		{Milan, 2, nil, nil},
		{Milan, 3, nil, []Subject{{KindAMDCRL, Milan}, {KindVCEK, "Milan/" + string(all) + "/3.1.8.115.0"}}},
		{Genoa, 5, nil, []Subject{{KindAMDCRL, Genoa}, {KindVCEK, "Genoa/" + string(all) + "/3.1.8.115.0"}}},
		{Turin, 5, nil, []Subject{{KindAMDCRL, Turin}, {KindVCEK, "Turin/c1c1c1c1c1c1c1c1/3.1.8.115.2"}}},
		{Genoa, 5, func(b []byte) { b[0x189] = 0x20 }, nil},
		{Genoa, 5, func(b []byte) { b[0x182] = 1 }, nil},
		{Genoa, 5, func(b []byte) { clear(b[0x1a0:0x1e0]) }, []Subject{{KindAMDCRL, Genoa}}},
		{Genoa, 5, func(b []byte) { b[0x48] = 1 << 2 }, []Subject{{KindAMDCRL, "Genoa/vlek"}}},
		{Genoa, 5, func(b []byte) { b[0x48] = 1 << 4 }, []Subject{{KindAMDCRL, Genoa}}},
		{Genoa, 5, func(b []byte) { b[0x48] = 3 }, []Subject{{KindAMDCRL, Genoa}, {KindVCEK, "Genoa/" + string(all) + "/3.1.8.115.0"}}},
	} {
		s := newSoftSNP(t, c.line, c.version, "")
		s.alter = c.alter
		ev := s.evidence()
		if got := Needs(ev); !slices.Equal(got, c.want) {
			t.Errorf("%s v%d: %v, want %v", c.line, c.version, got, c.want)
		}
		for _, size := range []int{0, 3, 1183} {
			if got := Needs(Evidence{TEE: SEVSNP, Report: ev.Report[:size]}); got != nil {
				t.Errorf("%d bytes: %v", size, got)
			}
		}
		if got := Needs(Evidence{TEE: SEVSNP, Report: append(ev.Report, 0)}); got != nil {
			t.Errorf("1185 bytes: %v", got)
		}
	}
	td := newSoftTD(t)
	want := []Subject{{KindIntelRootCRL, "root"}, {KindPCKCRL, "platform"}, {KindTCBInfo, softFMSPC}, {KindQEIdentity, "td-qe"}}
	for _, form := range quoteForms {
		td.form = form
		quote := td.quote()
		if got := Needs(Evidence{TEE: TDX, Report: quote}); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", form, got, want)
		}
		for _, bad := range [][]byte{nil, quote[:1019], quote[:len(quote)-1], append(bytes.Clone(quote), make([]byte, 64<<10)...), append([]byte{6, 0}, quote[2:]...)} {
			if got := Needs(Evidence{TEE: TDX, Report: bad}); got != nil {
				t.Errorf("%s, %d bytes: %v", form, len(bad), got)
			}
		}
	}
	td.ca = td.certificate(2, nameProcessorCA, td.root.cert, td.rootKey, td.caKey, nil)
	want[1].Key = "processor"
	if got := Needs(Evidence{TEE: TDX, Report: td.quote()}); !slices.Equal(got, want) {
		t.Errorf("a processor's CA: %v", got)
	}
	td.pck = td.certificate(3, namePCK, td.ca, td.caKey, td.pckKey, nil)
	if got := Needs(Evidence{TEE: TDX, Report: td.quote()}); got != nil {
		t.Errorf("a certificate without Intel's extensions: %v", got)
	}
	if got := Needs(Evidence{TEE: "sample", Report: td.quote()}); got != nil {
		t.Errorf("another kind of evidence: %v", got)
	}
	if got := TCBInfoSubject("00A06D080000"); got != (Subject{KindTCBInfo, "00a06d080000"}) {
		t.Errorf("%v", got)
	}
	if got := VCEKSubject(Turin, []byte{1, 2, 3, 4, 5, 6, 7, 8}, TCB{}); got.Key != "Turin/0102030405060708/0.0.0.0.0" {
		t.Errorf("%v", got)
	}
}

// TestProveOfAMD: what an object of AMD's speaks of and from when until when, and that nobody else's does.
func TestProveOfAMD(t *testing.T) {
	vcek, vlek, turin, stranger := newSoftSNP(t, Genoa, 3, ""), newSoftSNP(t, Genoa, 3, "cloud-one"), newSoftSNP(t, Turin, 3, ""), newSoftSNP(t, Genoa, 3, "")
	roots := newRoots([]*authority{vcek.by, vlek.by, turin.by})
	from, to := vcek.now.AddDate(0, 0, -3), vcek.now.AddDate(0, 0, 3)
	leafFrom, leafTo := vcek.now.AddDate(0, -1, 0), vcek.now.AddDate(0, 1, 0)
	long := vcek.issue(func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = vcek.now.AddDate(-9, 0, 0), vcek.now.AddDate(9, 0, 0)
	})
	key := "Genoa/" + strings.Repeat("c1", 64) + "/3.1.8.115.0"
	for _, c := range []struct {
		name string
		o    Object
		at   time.Time
		want Statement
		word string
	}{
		{"VCEK", Object{KindVCEK, vcek.leaf}, vcek.now, Statement{Subject{KindVCEK, key}, leafFrom, leafTo}, ""},
		{"VCEK that outlives its root", Object{KindVCEK, long}, vcek.now, Statement{Subject{KindVCEK, key}, vcek.by.ark.NotBefore, vcek.by.ark.NotAfter}, ""},
		{"Turin's", Object{KindVCEK, turin.leaf}, vcek.now, Statement{Subject{KindVCEK, "Turin/c1c1c1c1c1c1c1c1/3.1.8.115.2"}, leafFrom, leafTo}, ""},
		{"VLEK", Object{KindVLEK, vlek.leaf}, vcek.now, Statement{Subject{KindVLEK, "Genoa/" + fmt.Sprintf("%x", "cloud-one") + "/3.1.8.115.0"}, leafFrom, leafTo}, ""},
		{"list", Object{KindAMDCRL, vcek.list(from, to)}, vcek.now, Statement{Subject{KindAMDCRL, Genoa}, from, to}, ""},
		{"chain", Object{KindAMDChain, encodeChain(turin.by)}, vcek.now, Statement{Subject{KindAMDChain, Turin}, turin.by.ark.NotBefore, turin.by.ark.NotAfter}, ""},
		{"VCEK as VLEK", Object{KindVLEK, vcek.leaf}, vcek.now, Statement{}, "other kind"},
		{"VLEK as VCEK", Object{KindVCEK, vlek.leaf}, vcek.now, Statement{}, "other kind"},
		{"expired VCEK", Object{KindVCEK, vcek.leaf}, leafTo.Add(time.Second), Statement{}, "expired"},
		{"stranger's VCEK", Object{KindVCEK, stranger.leaf}, vcek.now, Statement{}, "verification error"},
		{"noise for a VCEK", Object{KindVCEK, []byte{1}}, vcek.now, Statement{}, "reading leaf"},
		{"stranger's list", Object{KindAMDCRL, stranger.list(from, to)}, vcek.now, Statement{}, "none of the roots"},
		{"endless list", Object{KindAMDCRL, endless(t, vcek.list(from, to), vcek.sign)}, vcek.now, Statement{}, "without a next update"},
		{"noise for a list", Object{KindAMDCRL, []byte{1}}, vcek.now, Statement{}, "x509"},
		{"stranger's chain", Object{KindAMDChain, encodeChain(stranger.by)}, vcek.now, Statement{}, "none of the roots'"},
		{"chain of nothing", Object{KindAMDChain, nil}, vcek.now, Statement{}, "no certificate"},
		{"a key for a chain", Object{KindAMDChain, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: []byte{1}})}, vcek.now, Statement{}, "reading chain"},
		{"too large", Object{KindVCEK, make([]byte, maxObjectBytes+1)}, vcek.now, Statement{}, "beyond its bound"},
		{"as large as may be", Object{KindAMDCRL, make([]byte, maxObjectBytes)}, vcek.now, Statement{}, "x509"},
		{"unknown kind", Object{"other", vcek.leaf}, vcek.now, Statement{}, "reading certificates"}, // as Intel's, whose chain comes first
	} {
		got, err := roots.Prove(c.o, nil, c.at)
		if c.word != "" {
			if err == nil || !strings.Contains(err.Error(), c.word) {
				t.Errorf("%s: %v, want a word about %q", c.name, err, c.word)
			}
			continue
		}
		if err != nil || got.Subject != c.want.Subject || !got.From.Equal(c.want.From) || !got.Until.Equal(c.want.Until) {
			t.Errorf("%s: %v %+v, want %+v", c.name, err, got, c.want)
		}
	}
	if _, err := (*Roots)(nil).Prove(Object{KindVCEK, vcek.leaf}, nil, vcek.now); err == nil {
		t.Error("a certificate was proved without roots")
	}
	for size, word := range map[int]string{maxChainBytes: "reading certificates", maxChainBytes + 1: "beyond its bound"} {
		if _, err := roots.Prove(Object{"other", nil}, make([]byte, size), vcek.now); err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("a chain of %d bytes: %v", size, err)
		}
	}
}

// TestProveOfIntel goes through Intel's objects under a root of the test's own.
func TestProveOfIntel(t *testing.T) {
	s := newSoftTD(t)
	s.signer = s.certificate(4, nameTCBSigning, s.root.cert, s.rootKey, s.signKey, func(c *x509.Certificate) { c.NotBefore, c.NotAfter = s.now.AddDate(0, 0, -2), s.now.AddDate(0, 0, 2) })
	signing, issuers := s.pem(s.signer, s.root.cert), s.pem(s.ca, s.root.cert)
	processor := s.certificate(9, nameProcessorCA, s.root.cert, s.rootKey, s.caKey, func(c *x509.Certificate) {
		c.IsCA, c.KeyUsage = true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign
	})
	named := s.certificate(9, nameRootCA, s.root.cert, s.rootKey, s.caKey, nil)
	plain := s.certificate(9, namePlatformCA, s.root.cert, s.rootKey, s.caKey, func(c *x509.Certificate) { c.IsCA = false })
	forged := s.certificate(9, namePlatformCA, s.certificate(1, nameRootCA, nil, s.signKey, s.signKey, nil), s.signKey, s.caKey, nil)
	twin := s.certificate(2, namePlatformCA, nil, s.signKey, s.signKey, nil)
	future := s.certificate(9, namePlatformCA, s.root.cert, s.rootKey, s.caKey, func(c *x509.Certificate) { c.NotBefore = s.now.Add(time.Hour) })
	past := s.certificate(9, namePlatformCA, s.root.cert, s.rootKey, s.caKey, func(c *x509.Certificate) { c.NotAfter = s.now.Add(-time.Hour) })
	edge := s.certificate(9, namePlatformCA, s.root.cert, s.rootKey, s.caKey, func(c *x509.Certificate) { c.NotBefore, c.NotAfter = s.now, s.now })
	list := func(by *x509.Certificate) []byte { return s.list(by, s.caKey, []*big.Int{big.NewInt(7)}) }
	other := newSoftTD(t)
	info, identity := s.statement(tcbInfoMember, s.info), s.statement(qeIdentityMember, s.identity)
	narrow := s.certificate(5, nameTCBSigning, s.root.cert, s.rootKey, s.signKey, func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = s.issued.AddDate(-1, 0, 0), s.next.AddDate(1, 0, 0)
	})
	for _, c := range []struct {
		name  string
		o     Object
		chain []byte
		want  Statement
		ok    bool
	}{
		{"signing chain", Object{KindTCBChain, signing}, nil, Statement{Subject{KindTCBChain, "signing"}, s.signer.NotBefore, s.signer.NotAfter}, true},
		{"QE's signing chain", Object{KindQEChain, signing}, nil, Statement{Subject{KindQEChain, "signing"}, s.signer.NotBefore, s.signer.NotAfter}, true},
		{"TCB info", Object{KindTCBInfo, info}, signing, Statement{Subject{KindTCBInfo, softFMSPC}, later(s.issued, s.signer.NotBefore), earlier(s.next, s.signer.NotAfter)}, true},
		{"TCB info under a longer signer", Object{KindTCBInfo, info}, s.pem(narrow, s.root.cert), Statement{Subject{KindTCBInfo, softFMSPC}, s.issued, s.next}, true},
		{"QE identity", Object{KindQEIdentity, identity}, signing, Statement{Subject{KindQEIdentity, "td-qe"}, later(s.issued, s.signer.NotBefore), earlier(s.next, s.signer.NotAfter)}, true},
		{"QE identity under a longer signer", Object{KindQEIdentity, identity}, s.pem(narrow, s.root.cert), Statement{Subject{KindQEIdentity, "td-qe"}, s.issued, s.next}, true},
		{"root's list", Object{KindIntelRootCRL, s.list(s.root.cert, s.rootKey, nil)}, nil, Statement{Subject{KindIntelRootCRL, "root"}, s.issued, s.next}, true},
		{"platforms' list", Object{KindPCKCRL, list(s.ca)}, issuers, Statement{Subject{KindPCKCRL, "platform"}, s.issued, s.next}, true},
		{"processors' list", Object{KindPCKCRL, list(processor)}, s.pem(processor, s.root.cert), Statement{Subject{KindPCKCRL, "processor"}, s.issued, s.next}, true},
		{"list of a CA valid for one instant", Object{KindPCKCRL, list(edge)}, s.pem(edge, s.root.cert), Statement{Subject{KindPCKCRL, "platform"}, s.issued, s.next}, true},
		{"TCB info without a chain", Object{KindTCBInfo, info}, nil, Statement{}, false},
		{"TCB info under another root", Object{KindTCBInfo, info}, other.pem(other.signer, other.root.cert), Statement{}, false},
		{"root's list under another root", Object{KindIntelRootCRL, other.list(other.root.cert, other.rootKey, nil)}, nil, Statement{}, false},
		{"platforms' list without a chain", Object{KindPCKCRL, list(s.ca)}, nil, Statement{}, false},
		{"platforms' list under another root", Object{KindPCKCRL, list(s.ca)}, s.pem(s.ca, other.root.cert), Statement{}, false},
		{"platforms' list of another key", Object{KindPCKCRL, s.list(twin, s.signKey, nil)}, issuers, Statement{}, false},
		{"platforms' list of another CA", Object{KindPCKCRL, list(processor)}, issuers, Statement{}, false},
		{"list of a CA by another name", Object{KindPCKCRL, list(named)}, s.pem(named, s.root.cert), Statement{}, false},
		{"list of a CA that is none", Object{KindPCKCRL, list(s.ca)}, s.pem(plain, s.root.cert), Statement{}, false},
		{"list of a CA of another's making", Object{KindPCKCRL, list(forged)}, s.pem(forged, s.root.cert), Statement{}, false},
		{"list of a future CA", Object{KindPCKCRL, list(future)}, s.pem(future, s.root.cert), Statement{}, false},
		{"list of a past CA", Object{KindPCKCRL, list(past)}, s.pem(past, s.root.cert), Statement{}, false},
		{"unknown kind", Object{"intel-other", info}, signing, Statement{}, false},
	} {
		got := Statement{Subject: Subject{Kind: c.o.Kind}}
		err := proveIntelUnder(s.root, &got, c.o, c.chain, s.now)
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
		if c.ok && (got.Subject != c.want.Subject || !got.From.Equal(c.want.From) || !got.Until.Equal(c.want.Until)) {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
	// The public entry takes Intel's own root, and objects that Intel signed.
	for kind, want := range map[string]string{KindTCBInfo: "50806f000000", KindQEIdentity: "td-qe", KindIntelRootCRL: "root"} {
		name := map[string]string{KindTCBInfo: "tdx/tcbinfo-50806f000000.json", KindQEIdentity: "tdx/td-qe-identity.json", KindIntelRootCRL: "tdx/root-ca-crl.der"}[kind]
		got, err := AMDRoots().Prove(Object{kind, file(t, name)}, file(t, "tdx/tcb-signing-chain.pem"), day("2026-03-20"))
		if err != nil || got.Subject != (Subject{kind, want}) || !got.Until.After(got.From) {
			t.Errorf("%s: %v, %+v", kind, err, got)
		}
	}
}

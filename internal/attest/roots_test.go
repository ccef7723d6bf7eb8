package attest

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-sev-guest/verify/trust"
)

// TestRootsArePinned compares the embedded roots with those of go-sev-guest, a
// second source, and with fingerprints written down here.
func TestRootsArePinned(t *testing.T) {
	for line, ark := range map[string]string{
		Milan: "69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd", Genoa: "4c6598d19c18719c5dfd4a7d335f674e5bfe1d8f800cea2cf270c10d103db2f1", Turin: "1f084161a44bb6d93778a904877d4819cafa5d05ef4193b2ded9dd9c73dd3f6a",
	} {
		as := AMDRoots().lines[line]
		if len(as) != 1 {
			t.Fatalf("%s has %d authorities", line, len(as))
		}
		a := as[0]
		if sum := sha256.Sum256(a.ark.Raw); hex.EncodeToString(sum[:]) != ark {
			t.Errorf("root of %s has fingerprint %x", line, sum)
		}
		theirs := trust.DefaultRootCerts[line].ProductCerts
		if !a.ark.Equal(theirs.Ark) || !a.ask.Equal(theirs.Ask) {
			t.Errorf("%s: not the roots that go-sev-guest has", line)
		}
		if key, ok := a.ark.PublicKey.(*rsa.PublicKey); !ok || key.N.BitLen() != 4096 || a.simulated {
			t.Errorf("%s: no RSA-4096 key, or simulated", line)
		}
		if !a.ask.IsCA || !a.ark.IsCA {
			t.Errorf("%s: not authorities", line)
		}
	}
}

func TestAuthorityRefuses(t *testing.T) {
	genoa := AMDRoots().lines[Genoa][0]
	encode := func(certs ...*x509.Certificate) (out []byte) {
		for _, c := range certs {
			out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
		}
		return out
	}
	if _, err := newAuthority(Genoa, encode(genoa.ask, genoa.ark)); err != nil {
		t.Fatal(err)
	}
	forged := *genoa.ark
	forged.Raw = bytes.Clone(forged.Raw)
	forged.Raw[len(forged.Raw)-1] ^= 1
	for name, bundle := range map[string][]byte{
		"nothing":         nil,
		"no root":         encode(genoa.ask),
		"no intermediate": encode(genoa.ark),
		"another line":    milanPEM,
		"forged root":     encode(genoa.ask, &forged),
		"a key":           pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte{1}}),
		"no certificate":  pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte{1}}),
	} {
		if _, err := newAuthority(Genoa, bundle); err == nil {
			t.Errorf("%s makes an authority", name)
		}
	}
}

// made is an authority whose keys the test holds, to sign revocation lists.
type made struct {
	*authority
	key *rsa.PrivateKey
}

func makeAuthority(t *testing.T) made {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := func(name string, serial int64) *x509.Certificate {
		return &x509.Certificate{
			SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name}, NotBefore: day("2020-01-01"), NotAfter: day("2040-01-01"),
			IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, SignatureAlgorithm: x509.SHA384WithRSAPSS,
			SubjectKeyId: []byte{byte(serial)},
		}
	}
	var bundle []byte
	for _, c := range []*x509.Certificate{template("ARK-"+Genoa, 1), template("SEV-"+Genoa, 2)} {
		der, err := x509.CreateCertificate(rand.Reader, c, template("ARK-"+Genoa, 1), key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		bundle = append(bundle, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	a, err := newAuthority(Genoa, bundle)
	if err != nil {
		t.Fatal(err)
	}
	return made{a, key}
}

func (m made) list(t *testing.T, from, to time.Time, revoked ...*big.Int) []byte {
	t.Helper()
	l := &x509.RevocationList{Number: big.NewInt(from.Unix()), ThisUpdate: from, NextUpdate: to, SignatureAlgorithm: x509.SHA384WithRSAPSS}
	for _, s := range revoked {
		l.RevokedCertificateEntries = append(l.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: s, RevocationTime: from})
	}
	der, err := x509.CreateRevocationList(rand.Reader, l, m.ark, m.key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// TestRevocation has no list of AMD's to work with (none is public together with
// evidence), so the lists are the test's own and only their judgement is shown.
func TestRevocation(t *testing.T) {
	m := makeAuthority(t)
	roots := newRoots([]*authority{m.authority})
	leaf := &vcek{cert: &x509.Certificate{SerialNumber: big.NewInt(77)}}
	from, to := day("2026-11-01"), day("2026-12-01")
	judge := func(at time.Time, rule Revocation, lists ...[]byte) Status {
		t.Helper()
		crls, err := ParseCRLs(roots, lists...)
		if err != nil {
			t.Fatal(err)
		}
		j := judgement{verdict: newVerdict(snpTable), col: Collateral{CRLs: crls}, pol: Policy{Revocation: rule}, at: at}
		j.revocation(&chain{leaf: leaf, by: m.authority, issuer: m.ask})
		if c := j.checks[checkRevoked]; c.Status == Failed {
			return c.Status
		}
		return j.checks[checkRevocation].Status
	}
	good, bad, ask := m.list(t, from, to), m.list(t, from.AddDate(0, 0, 1), to, big.NewInt(77)), m.list(t, from, to, m.ask.SerialNumber)
	now := day("2026-11-15")
	for name, row := range map[string]struct {
		at    time.Time
		rule  Revocation
		lists [][]byte
		want  Status
	}{
		"valid":                       {now, RevocationRequired, [][]byte{good}, Passed},
		"valid, not asked for":        {now, RevocationNotJudged, [][]byte{good}, Passed},
		"none":                        {now, RevocationRequired, nil, Failed},
		"none, not asked for":         {now, RevocationNotJudged, nil, NotJudged},
		"expired":                     {to, RevocationRequired, [][]byte{good}, Failed},
		"from the future":             {from.Add(-time.Second), RevocationRequired, [][]byte{good}, Failed},
		"expired, not asked for":      {to, RevocationNotJudged, [][]byte{good}, NotJudged},
		"leaf revoked":                {now, RevocationNotJudged, [][]byte{bad}, Failed},
		"intermediate revoked":        {now, RevocationNotJudged, [][]byte{ask}, Failed},
		"revoked by an expired list":  {to, RevocationNotJudged, [][]byte{bad}, Failed},
		"named by the earlier of two": {now, RevocationRequired, [][]byte{m.list(t, from.AddDate(0, 0, -1), to, big.NewInt(77)), good}, Failed},
		"named by the later of two":   {now, RevocationRequired, [][]byte{good, bad}, Failed},
		"the later of two":            {now, RevocationRequired, [][]byte{bad, good}, Failed},
	} {
		if got := judge(row.at, row.rule, row.lists...); got != row.want {
			t.Errorf("%s: %s, want %s", name, got, row.want)
		}
	}
	stranger := makeAuthority(t)
	for name, der := range map[string][]byte{
		"another root's": stranger.list(t, from, to), "noise": {1, 2, 3}, "too large": make([]byte, maxCRLBytes+1), "cut": good[:len(good)-1],
	} {
		if _, err := ParseCRLs(roots, der); err == nil {
			t.Errorf("%s was taken for a revocation list", name)
		}
	}
	if _, err := ParseCRLs(nil, good); err == nil {
		t.Error("a list was read without roots")
	}
}

// TestOrigins holds every fixture against the hash in testdata/ORIGIN.
func TestOrigins(t *testing.T) {
	known, seen := map[string]bool{}, map[string]bool{}
	for _, name := range []string{"ORIGIN", "tdx/ORIGIN"} {
		for _, sum := range regexp.MustCompile(`(?m)^ +[0-9a-f]{64}$`).FindAllString(string(file(t, name)), -1) {
			known[strings.TrimSpace(sum)] = true
		}
	}
	for _, pattern := range []string{"roots/*", "testdata/*.*", "testdata/digest/*", "testdata/tdx/*.*"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range files {
			if strings.HasSuffix(name, "random.json") || strings.HasSuffix(name, ".py") {
				continue
			}
			data, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			sum := sha256.Sum256(data)
			if !known[hex.EncodeToString(sum[:])] {
				t.Errorf("%s is not as it came from its source", name)
			}
			seen[hex.EncodeToString(sum[:])] = true
		}
	}
	if len(seen) != len(known) {
		t.Errorf("%d files, %d hashes", len(seen), len(known))
	}
}

func encodeChain(a *authority) (out []byte) {
	for _, c := range a.certificates() {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return out
}

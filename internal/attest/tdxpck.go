package attest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	_ "embed"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"sync"
	"time"

	"github.com/google/go-tdx-guest/pcs"
)

// intelPEM is the Intel SGX Root CA, under which Intel certifies platforms and
// signs what it says of them. See testdata/tdx/ORIGIN.
//
//go:embed roots/intel-sgx-root.pem
var intelPEM []byte

// intelRoot is a root that may vouch for quotes and their collateral.
type intelRoot struct {
	cert      *x509.Certificate
	sum       [sha256.Size]byte
	simulated bool
}

var pinnedIntelRoot = sync.OnceValue(func() *intelRoot {
	certs, err := readChain(intelPEM, 1)
	if err != nil {
		// The bytes are part of the program: a program without its root is broken.
		panic(fmt.Sprintf("embedded root of Intel: %v", err))
	}
	return newIntelRoot(certs[0], false)
})

func newIntelRoot(cert *x509.Certificate, simulated bool) *intelRoot {
	return &intelRoot{cert: cert, sum: sha256.Sum256(cert.Raw), simulated: simulated}
}

// Common names of the PCK profile (Intel SGX PCK Certificate and CRL Profile
// Specification, certificate hierarchy).
const (
	nameRootCA      = "Intel SGX Root CA"
	namePlatformCA  = "Intel SGX PCK Platform CA"
	nameProcessorCA = "Intel SGX PCK Processor CA"
	namePCK         = "Intel SGX PCK Certificate"
	nameTCBSigning  = "Intel SGX TCB Signing"

	maxChainBytes = 16 << 10
)

// readChain reads exactly n certificates in PEM as Intel writes them, one behind
// the other; a NUL or blank lines may follow. Any other framing is refused, so
// that no byte of it is without a meaning.
func readChain(data []byte, n int) ([]*x509.Certificate, error) {
	if len(data) > maxChainBytes {
		return nil, fmt.Errorf("reading certificates: more than %d bytes", maxChainBytes)
	}
	rest := bytes.TrimRight(data, "\n\x00")
	rest = append(bytes.Clone(rest), '\n')
	var certs []*x509.Certificate
	for len(rest) > 0 {
		block, behind := pem.Decode(rest)
		if block == nil || len(certs) == n {
			return nil, fmt.Errorf("reading certificates: not %d certificates in PEM", n)
		}
		written := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: block.Bytes})
		if !bytes.Equal(written, rest[:len(rest)-len(behind)]) {
			return nil, errors.New("reading certificates: not as PEM is written")
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("reading certificates: %w", err)
		}
		certs, rest = append(certs, c), behind
	}
	if len(certs) != n {
		return nil, fmt.Errorf("reading certificates: %d of %d", len(certs), n)
	}
	return certs, nil
}

// platform is what a quote says of the machine and of the enclave that signed it,
// each step proved or not.
type platform struct {
	pck, ca              *x509.Certificate
	notBefore, notAfter  time.Time
	sum                  [sha256.Size]byte
	fmspc, pceID, ppid   string
	pceSVN               uint16
	components           []byte
	root                 *intelRoot
	key                  *ecdsa.PublicKey
	chained, signed, own bool
}

// provePlatform reads the certificates of a quote and proves, without a clock:
// that the pinned root signed the CA and the CA the platform's key (chained), that
// this key signed the report of the quoting enclave (signed), and that the report
// names the attestation key (own). It fails if the certificates cannot be read.
func provePlatform(q *quote, root *intelRoot) (*platform, error) {
	certs, err := readChain(q.pckChain, 3)
	if err != nil {
		return nil, err
	}
	ext, err := pcs.PckCertificateExtensions(certs[0])
	if err != nil {
		return nil, fmt.Errorf("reading the platform's certificate: %w", err)
	}
	pckKey, ok := certs[0].PublicKey.(*ecdsa.PublicKey)
	if !ok || pckKey.Curve != elliptic.P256() || len(ext.TCB.CPUSvnComponents) != 16 || len(ext.FMSPC) != 12 || len(ext.PCEID) != 4 || len(ext.PPID) != 32 {
		return nil, errors.New("reading the platform's certificate: key or extensions are not those of the profile")
	}
	p := &platform{
		pck: certs[0], ca: certs[1], sum: sha256.Sum256(certs[0].Raw), root: root,
		notBefore: later(certs[0].NotBefore, later(certs[1].NotBefore, root.cert.NotBefore)),
		notAfter:  earlier(certs[0].NotAfter, earlier(certs[1].NotAfter, root.cert.NotAfter)),
		fmspc:     ext.FMSPC, pceID: ext.PCEID, ppid: ext.PPID, pceSVN: ext.TCB.PCESvn, components: ext.TCB.CPUSvnComponents,
	}
	p.chained = bytes.Equal(certs[2].Raw, root.cert.Raw) && chains(certs[0], certs[1], root.cert)
	digest := sha256.Sum256(q.qeReport)
	p.signed = signedP256(pckKey, digest, q.qeSignature)
	bound := sha256.Sum256(append(bytes.Clone(q.key), q.authData...))
	p.own = bytes.Equal(q.qe.GetReportData(), append(bound[:], make([]byte, 32)...))
	// ParseUncompressedPublicKey refuses a point that is not on the curve.
	p.key, err = ecdsa.ParseUncompressedPublicKey(elliptic.P256(), append([]byte{4}, q.key...))
	if err != nil {
		p.key, p.own = nil, false
	}
	return p, nil
}

// chains says that root signed ca and ca signed pck, each being what its name and
// constraints say. Validity in time is judged elsewhere.
func chains(pck, ca, root *x509.Certificate) bool {
	name := ca.Subject.CommonName
	return root.IsCA && ca.IsCA && !pck.IsCA &&
		root.Subject.CommonName == nameRootCA && (name == namePlatformCA || name == nameProcessorCA) && pck.Subject.CommonName == namePCK &&
		len(ca.UnhandledCriticalExtensions) == 0 && len(pck.UnhandledCriticalExtensions) == 0 &&
		bytes.Equal(ca.RawIssuer, root.RawSubject) && bytes.Equal(pck.RawIssuer, ca.RawSubject) &&
		root.CheckSignatureFrom(root) == nil && ca.CheckSignatureFrom(root) == nil && pck.CheckSignatureFrom(ca) == nil
}

// signedP256 checks a signature that is written as r and s, 32 bytes each.
func signedP256(key *ecdsa.PublicKey, digest [sha256.Size]byte, signature []byte) bool {
	if key == nil || len(signature) != quoteSignatureSize {
		return false
	}
	r, s := new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:])
	return ecdsa.Verify(key, digest[:], r, s)
}

type platformKey struct{ root, certification [sha256.Size]byte }

// platformCache remembers proofs of platforms, never failures. Everything between
// the quote's own signature and its end is in the key, so a proof that is found
// speaks for the very same bytes.
type platformCache struct {
	mu    sync.RWMutex
	known map[platformKey]*platform
}

// platform proves the machine of a quote, or finds that it was proved.
func (c *platformCache) platform(q *quote, root *intelRoot) (*platform, error) {
	if c == nil {
		return provePlatform(q, root)
	}
	key := platformKey{root: root.sum, certification: sha256.Sum256(q.certification)}
	c.mu.RLock()
	p := c.known[key]
	c.mu.RUnlock()
	if p != nil {
		return p, nil
	}
	p, err := provePlatform(q, root)
	if err != nil || !p.chained || !p.signed || !p.own {
		return p, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.known == nil {
		c.known = make(map[platformKey]*platform)
	}
	if len(c.known) >= maxCachedChains {
		// Which one goes does not matter for correctness: it is proved again.
		for old := range c.known {
			delete(c.known, old)
			break
		}
	}
	c.known[key] = p
	return p, nil
}

func (p *platform) validAt(at time.Time) bool {
	return !at.Before(p.notBefore) && !at.After(p.notAfter)
}

func hexName(sum [sha256.Size]byte) string { return hex.EncodeToString(sum[:]) }

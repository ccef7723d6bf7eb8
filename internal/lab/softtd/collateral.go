//go:build devtee

package softtd

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/big"
	"strings"
	"time"

	"github.com/eosc-siesta/siestad/internal/attest"
)

// The members stand in the order of Intel's answers (Intel PCS API v4).
type tcbInfo struct {
	ID         string         `json:"id"`
	Version    int            `json:"version"`
	IssueDate  string         `json:"issueDate"`
	NextUpdate string         `json:"nextUpdate"`
	FMSPC      string         `json:"fmspc"`
	PCEID      string         `json:"pceId"`
	TCBType    int            `json:"tcbType"`
	Evaluation int            `json:"tcbEvaluationDataNumber"`
	Module     moduleSigner   `json:"tdxModule"`
	Modules    []tdxModule    `json:"tdxModuleIdentities"`
	Levels     []tcbInfoLevel `json:"tcbLevels"`
}

type moduleSigner struct {
	Signer         string `json:"mrsigner"`
	Attributes     string `json:"attributes"`
	AttributesMask string `json:"attributesMask"`
}

type tdxModule struct {
	ID string `json:"id"`
	moduleSigner
	Levels []isvLevel `json:"tcbLevels"`
}

type isvLevel struct {
	TCB struct {
		ISVSVN int `json:"isvsvn"`
	} `json:"tcb"`
	Date   string `json:"tcbDate"`
	Status string `json:"tcbStatus"`
}

type tcbInfoLevel struct {
	TCB struct {
		SGX    []component `json:"sgxtcbcomponents"`
		PCESVN int         `json:"pcesvn"`
		TDX    []component `json:"tdxtcbcomponents"`
	} `json:"tcb"`
	Date   string `json:"tcbDate"`
	Status string `json:"tcbStatus"`
}

type component struct {
	SVN byte `json:"svn"`
}

type qeIdentity struct {
	ID             string     `json:"id"`
	Version        int        `json:"version"`
	IssueDate      string     `json:"issueDate"`
	NextUpdate     string     `json:"nextUpdate"`
	Evaluation     int        `json:"tcbEvaluationDataNumber"`
	Misc           string     `json:"miscselect"`
	MiscMask       string     `json:"miscselectMask"`
	Attributes     string     `json:"attributes"`
	AttributesMask string     `json:"attributesMask"`
	Signer         string     `json:"mrsigner"`
	Product        int        `json:"isvprodid"`
	Levels         []isvLevel `json:"tcbLevels"`
}

const (
	levelDate = "2025-05-14T00:00:00Z"
	upToDate  = "UpToDate"
)

// Collateral is what the simulated Intel publishes of platforms of this kind, in force from one instant to another, with
// the issuer chains: what attest.NewCollateral reads.
func (p *Platform) Collateral(from, until time.Time) ([]attest.Object, error) {
	var out []attest.Object
	for _, o := range []struct {
		kind string
		make func() ([]byte, error)
	}{
		{attest.KindTCBChain, func() ([]byte, error) { return p.TCBChain(), nil }},
		{attest.KindQEChain, func() ([]byte, error) { return p.TCBChain(), nil }},
		{attest.KindTCBInfo, func() ([]byte, error) { return p.statement("tcbInfo", tcbInfoOf(from, until)) }},
		{attest.KindQEIdentity, func() ([]byte, error) { return p.statement("enclaveIdentity", qeIdentityOf(from, until)) }},
		{attest.KindPCKCRL, func() ([]byte, error) { return list(p.ca, p.caKey, from, until) }},
		{attest.KindIntelRootCRL, func() ([]byte, error) { return list(p.root, p.rootKey, from, until) }},
	} {
		data, err := o.make()
		if err != nil {
			return nil, fmt.Errorf("publishing %s: %w", o.kind, err)
		}
		out = append(out, attest.Object{Kind: o.kind, Bytes: data})
	}
	return out, nil
}

func tcbInfoOf(from, until time.Time) tcbInfo {
	module := moduleSigner{zeros(48), zeros(8), ones(8)}
	return tcbInfo{
		ID: "TDX", Version: 3, IssueDate: stamp(from), NextUpdate: stamp(until), FMSPC: FMSPC, PCEID: pceID, Evaluation: dataSet,
		Module: module, Modules: []tdxModule{{fmt.Sprintf("TDX_%02X", teeSVN[1]), module, []isvLevel{isv(int(teeSVN[0]))}}},
		Levels: []tcbInfoLevel{platformLevel()},
	}
}

func platformLevel() (l tcbInfoLevel) {
	for i := range components {
		l.TCB.SGX = append(l.TCB.SGX, component{components[i]})
		l.TCB.TDX = append(l.TCB.TDX, component{teeSVN[i]})
	}
	l.TCB.TDX[1].SVN = 0 // the module's version has a list of its own
	l.TCB.PCESVN, l.Date, l.Status = pceSVN, levelDate, upToDate
	return l
}

func qeIdentityOf(from, until time.Time) qeIdentity {
	return qeIdentity{
		ID: "TD_QE", Version: 2, IssueDate: stamp(from), NextUpdate: stamp(until), Evaluation: dataSet, Misc: zeros(4), MiscMask: ones(4),
		Attributes: "11" + zeros(15), AttributesMask: "FB" + ones(7) + zeros(8), Signer: strings.ToUpper(hex.EncodeToString(qeSigner[:])),
		Product: qeName, Levels: []isvLevel{isv(qeSVN)},
	}
}

func isv(svn int) isvLevel {
	l := isvLevel{Date: levelDate, Status: upToDate}
	l.TCB.ISVSVN = svn
	return l
}

// statement signs the bytes of the body as they stand in the answer, as Intel does.
func (p *Platform) statement(member string, body any) ([]byte, error) {
	data, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	signature, err := sign(p.signerKey, data)
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, `{"%s":%s,"signature":"%x"}`, member, data, signature), nil
}

// list is a revocation list with nothing on it.
func list(by *x509.Certificate, key *ecdsa.PrivateKey, from, until time.Time) ([]byte, error) {
	return x509.CreateRevocationList(rand.Reader, &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: from, NextUpdate: until}, by, key)
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func zeros(n int) string { return strings.Repeat("00", n) }

func ones(n int) string { return strings.Repeat("FF", n) }

package attest

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

const (
	maxTCBInfoBytes    = 256 << 10
	maxQEIdentityBytes = 64 << 10
	maxLevels          = 256
)

// tcbInfo is Intel's list of patch levels for one kind of platform (Intel PCS API
// v4, TDX TCB info, version 3).
type tcbInfo struct {
	signedObject
	fmspc, pceID string
	signer       []byte // MRSIGNERSEAM of modules without an identity of their own
	attributes   masked
	modules      []moduleIdentity
	levels       []level
}

// moduleIdentity is Intel's list for one version of the TDX module.
type moduleIdentity struct {
	id         string
	signer     []byte
	attributes masked
	levels     []level
}

// qeIdentity is what Intel says of its TD quoting enclave (Intel PCS API v4, TD QE
// identity, version 2).
type qeIdentity struct {
	signedObject
	misc, attributes masked
	signer           []byte
	product          uint32
	levels           []level
}

// masked is a value that counts under a mask only.
type masked struct{ value, mask []byte }

func (m masked) admits(b []byte) bool {
	if len(b) != len(m.value) || len(b) != len(m.mask) {
		return false
	}
	for i := range b {
		if b[i]&m.mask[i] != m.value[i] {
			return false
		}
	}
	return true
}

type levelDocument struct {
	TCB struct {
		SGX    []componentDocument `json:"sgxtcbcomponents"`
		TDX    []componentDocument `json:"tdxtcbcomponents"`
		PCESVN uint16              `json:"pcesvn"`
		ISVSVN *uint16             `json:"isvsvn"`
	} `json:"tcb"`
	Date       string   `json:"tcbDate"`
	Status     string   `json:"tcbStatus"`
	Advisories []string `json:"advisoryIDs"`
}

type componentDocument struct {
	SVN byte `json:"svn"`
}

type identityDocument struct {
	ID             string          `json:"id"`
	Signer         string          `json:"mrsigner"`
	Attributes     string          `json:"attributes"`
	AttributesMask string          `json:"attributesMask"`
	Levels         []levelDocument `json:"tcbLevels"`
}

type headDocument struct {
	ID               string    `json:"id"`
	Version          int       `json:"version"`
	IssueDate        time.Time `json:"issueDate"`
	NextUpdate       time.Time `json:"nextUpdate"`
	EvaluationNumber int       `json:"tcbEvaluationDataNumber"`
}

type tcbInfoDocument struct {
	headDocument
	FMSPC   string             `json:"fmspc"`
	PCEID   string             `json:"pceId"`
	Type    int                `json:"tcbType"`
	Module  identityDocument   `json:"tdxModule"`
	Modules []identityDocument `json:"tdxModuleIdentities"`
	Levels  []levelDocument    `json:"tcbLevels"`
}

type qeIdentityDocument struct {
	headDocument
	Misc           string          `json:"miscselect"`
	MiscMask       string          `json:"miscselectMask"`
	Attributes     string          `json:"attributes"`
	AttributesMask string          `json:"attributesMask"`
	Signer         string          `json:"mrsigner"`
	Product        uint16          `json:"isvprodid"`
	Levels         []levelDocument `json:"tcbLevels"`
}

func (d headDocument) read(id string, version int) (signedObject, error) {
	if d.ID != id || d.Version != version {
		return signedObject{}, fmt.Errorf("it is not %s of version %d", id, version)
	}
	if d.IssueDate.IsZero() || !d.NextUpdate.After(d.IssueDate) {
		return signedObject{}, errors.New("it has no window of validity")
	}
	return signedObject{issued: d.IssueDate, next: d.NextUpdate, evaluation: d.EvaluationNumber}, nil
}

// parseTCBInfo reads the signed part of a TCB info. Members that Intel may add are
// passed over: they are signed, and nothing rests on them.
func parseTCBInfo(body []byte) (*tcbInfo, error) {
	if len(body) > maxTCBInfoBytes {
		return nil, fmt.Errorf("more than %d bytes", maxTCBInfoBytes)
	}
	var doc tcbInfoDocument
	if err := json.Unmarshal(body, &doc); err != nil {
		return nil, errors.New("malformed JSON")
	}
	head, err := doc.read("TDX", 3)
	if err != nil {
		return nil, err
	}
	t := &tcbInfo{signedObject: head, fmspc: strings.ToLower(doc.FMSPC), pceID: strings.ToLower(doc.PCEID)}
	if doc.Type != 0 || len(t.fmspc) != 12 || len(t.pceID) != 4 {
		return nil, errors.New("TCB type, FMSPC or PCE-ID is not known")
	}
	module, err := doc.Module.read()
	if err != nil {
		return nil, err
	}
	t.signer, t.attributes = module.signer, module.attributes
	if len(doc.Modules) > maxLevels {
		return nil, errors.New("too many modules")
	}
	for _, d := range doc.Modules {
		m, err := d.read()
		if err != nil {
			return nil, err
		}
		if m.levels, err = isvLevels(d.Levels); err != nil {
			return nil, err
		}
		t.modules = append(t.modules, m)
	}
	if len(doc.Levels) == 0 || len(doc.Levels) > maxLevels {
		return nil, errors.New("no TCB level, or too many")
	}
	for _, d := range doc.Levels {
		l, err := d.read()
		if err != nil {
			return nil, err
		}
		if len(d.TCB.SGX) != 16 || len(d.TCB.TDX) != 16 {
			return nil, errors.New("a TCB level has not 16 components of each kind")
		}
		for i := range 16 {
			l.sgx, l.tdx = append(l.sgx, d.TCB.SGX[i].SVN), append(l.tdx, d.TCB.TDX[i].SVN)
		}
		l.pceSVN = d.TCB.PCESVN
		t.levels = append(t.levels, l)
	}
	return t, nil
}

func parseQEIdentity(body []byte) (*qeIdentity, error) {
	if len(body) > maxQEIdentityBytes {
		return nil, fmt.Errorf("more than %d bytes", maxQEIdentityBytes)
	}
	var doc qeIdentityDocument
	if err := json.Unmarshal(body, &doc); err != nil {
		return nil, errors.New("malformed JSON")
	}
	head, err := doc.read("TD_QE", 2)
	if err != nil {
		return nil, err
	}
	q := &qeIdentity{signedObject: head, product: uint32(doc.Product)}
	for _, f := range []struct {
		to   *[]byte
		hex  string
		size int
	}{
		{&q.misc.value, doc.Misc, 4},
		{&q.misc.mask, doc.MiscMask, 4},
		{&q.attributes.value, doc.Attributes, 16},
		{&q.attributes.mask, doc.AttributesMask, 16},
		{&q.signer, doc.Signer, 32},
	} {
		if *f.to, err = sized(f.hex, f.size); err != nil {
			return nil, err
		}
	}
	if q.levels, err = isvLevels(doc.Levels); err != nil {
		return nil, err
	}
	return q, nil
}

func (d identityDocument) read() (m moduleIdentity, err error) {
	m.id = d.ID
	if m.signer, err = sized(d.Signer, 48); err != nil {
		return m, err
	}
	if m.attributes.value, err = sized(d.Attributes, 8); err != nil {
		return m, err
	}
	m.attributes.mask, err = sized(d.AttributesMask, 8)
	return m, err
}

func (d levelDocument) read() (level, error) {
	s, err := publishedStatus(d.Status)
	if err != nil {
		return level{}, err
	}
	if len(d.Advisories) > maxLevels {
		return level{}, errors.New("too many advisories")
	}
	return level{status: s, date: d.Date, advisories: d.Advisories}, nil
}

func isvLevels(docs []levelDocument) ([]level, error) {
	if len(docs) == 0 || len(docs) > maxLevels {
		return nil, errors.New("no TCB level, or too many")
	}
	var out []level
	for _, d := range docs {
		l, err := d.read()
		if err != nil {
			return nil, err
		}
		if d.TCB.ISVSVN == nil {
			return nil, errors.New("a TCB level has no ISVSVN")
		}
		l.isvSVN = uint32(*d.TCB.ISVSVN)
		out = append(out, l)
	}
	return out, nil
}

func sized(s string, size int) ([]byte, error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != size {
		return nil, fmt.Errorf("a field is not %d bytes in hex", size)
	}
	return b, nil
}

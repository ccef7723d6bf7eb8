package ear

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"time"
)

// profile says how the claims are to be read: the shape that stock key broker
// servers issue.
const profile = "tag:github.com,2024:confidential-containers/Trustee"

// policyPrefix stands before the hash in ear.appraisal-policy-id.
const policyPrefix = "sha256:"

// wire is the claim set as JSON.
type wire struct {
	Profile  string   `json:"eat_profile"`
	Issuer   string   `json:"iss"`
	Audience string   `json:"aud"`
	ID       string   `json:"jti"`
	IssuedAt int64    `json:"iat"`
	Expires  int64    `json:"exp"`
	Nonce    string   `json:"eat_nonce"`
	Verifier verifier `json:"ear.verifier-id"`
	Submods  struct {
		CPU submod `json:"cpu0"`
	} `json:"submods"`
}

type verifier struct {
	Build     string `json:"build"`
	Developer string `json:"developer"`
}

type submod struct {
	Status   Status    `json:"ear.status"`
	Vector   Vector    `json:"ear.trustworthiness-vector"`
	PolicyID string    `json:"ear.appraisal-policy-id"`
	Evidence annotated `json:"ear.veraison.annotated-evidence"`
}

// annotated is what was read out of the evidence. Stock servers look for the
// guest's key at runtime_data_claims/tee-pubkey. Evidence of devices, which stock
// servers repeat here, was not judged and is left out.
type annotated struct {
	SNP        *platform `json:"snp,omitempty"`
	TDX        *platform `json:"tdx,omitempty"`
	InitData   string    `json:"init_data"`
	ReportData string    `json:"report_data"`
	Runtime    struct {
		Nonce  string          `json:"nonce"`
		TEEKey json.RawMessage `json:"tee-pubkey"`
	} `json:"runtime_data_claims"`
}

type platform struct {
	Measurement string   `json:"measurement"`
	TCBStatus   string   `json:"tcb_status"`
	Advisories  []string `json:"advisory_ids"`
}

func (c Claims) wire() wire {
	w := wire{Profile: profile, ID: c.ID, Nonce: c.Nonce, IssuedAt: c.IssuedAt.Unix(), Expires: c.Expires.Unix()}
	p := &platform{
		Measurement: hex.EncodeToString(c.Measurement), TCBStatus: c.TCBStatus,
		Advisories: append([]string{}, c.Advisories...),
	}
	cpu := &w.Submods.CPU
	cpu.Status, cpu.Vector = c.Vector.Status(), c.Vector
	cpu.PolicyID = policyPrefix + hex.EncodeToString(c.PolicyHash[:])
	cpu.Evidence.InitData = hex.EncodeToString(c.InitData)
	cpu.Evidence.ReportData = hex.EncodeToString(c.ReportData)
	if c.TEE == "snp" {
		cpu.Evidence.SNP = p
	} else {
		cpu.Evidence.TDX = p
	}
	cpu.Evidence.Runtime.Nonce = c.Nonce
	cpu.Evidence.Runtime.TEEKey = c.TEEKey
	return w
}

// encode writes the claim set without HTML escaping, so that a key comes out of a
// token with the text that went in.
func encode(w wire) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(w); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// decode reads a claim set whose signature was proved. It still has to be one
// that this package wrote: the same key might come to sign something else.
func decode(data []byte) (wire, Claims, error) {
	var w wire
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&w); err != nil {
		return w, Claims{}, errors.New("not the claims of this package")
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return w, Claims{}, errors.New("something follows the claims")
	}
	cpu := w.Submods.CPU
	c := Claims{
		ID: w.ID, Nonce: w.Nonce, Vector: cpu.Vector, TEEKey: cpu.Evidence.Runtime.TEEKey,
		IssuedAt: time.Unix(w.IssuedAt, 0).UTC(), Expires: time.Unix(w.Expires, 0).UTC(),
	}
	var p *platform
	switch snp, tdx := cpu.Evidence.SNP, cpu.Evidence.TDX; {
	case snp != nil && tdx == nil:
		c.TEE, p = "snp", snp
	case tdx != nil && snp == nil:
		c.TEE, p = "tdx", tdx
	default:
		return w, Claims{}, errors.New("claims about none or two kinds of hardware")
	}
	c.TCBStatus, c.Advisories = p.TCBStatus, p.Advisories
	policy, found := strings.CutPrefix(cpu.PolicyID, policyPrefix)
	if !found || w.Profile != profile || cpu.Status != c.Vector.Status() || w.Nonce != cpu.Evidence.Runtime.Nonce {
		return w, Claims{}, errors.New("claims that contradict each other")
	}
	var err [4]error
	var hash []byte
	hash, err[0] = hex.DecodeString(policy)
	c.Measurement, err[1] = hex.DecodeString(p.Measurement)
	c.InitData, err[2] = hex.DecodeString(cpu.Evidence.InitData)
	c.ReportData, err[3] = hex.DecodeString(cpu.Evidence.ReportData)
	if e := errors.Join(err[:]...); e != nil || len(hash) != len(c.PolicyHash) {
		return w, Claims{}, errors.New("a digest in the claims is not one")
	}
	copy(c.PolicyHash[:], hash)
	return w, c, c.check()
}

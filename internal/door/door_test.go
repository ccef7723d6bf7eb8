package door

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var (
	brokerKey = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, 32))
	guestKey  = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{2}, 32))
	request   = ChallengeRequest{Workspace: "01jabcdefghjkmnpqrstvwxyz0", Generation: 3, Purpose: Unlock}
	nonce     = bytes.Repeat([]byte{7}, NonceSize)
	header    = strings.Repeat("ab", 32)
)

func challenge() Challenge {
	c := Challenge{Challenge: "01jchallenge", Nonce: nonce, ExpiresAt: "2026-11-23T22:00:00Z"}
	SignChallenge(brokerKey, request, &c)
	return c
}

func grant() Grant {
	g := Grant{
		Lease:  Lease{ID: "01jlease", Until: "2026-11-23T22:05:00Z", RenewAfter: "2026-11-23T22:02:30Z"},
		Sealed: Box{Enc: []byte("enc"), Ciphertext: []byte("text")}, Context: Context{Project: "p", Volume: "v", PolicyHash: header}, Receipt: "proof",
	}
	SignGrant(brokerKey, "01jchallenge", nonce, &g)
	return g
}

// The golden file fixes every hashed and signed byte. A change of it is a change of the protocol: a new label.
func TestGoldenVectors(t *testing.T) {
	c, g := challenge(), grant()
	e := Event{Seq: 1, Stage: Formatted, HeaderHash: header, Detail: "done"}
	SignEvent(guestKey, "01jlease", &e)
	data := ReportData(Binding{
		Challenge: c.Challenge, Nonce: nonce, Workspace: request.Workspace, Generation: request.Generation, Purpose: request.Purpose,
		KEM: KEMX25519, HPKEKey: bytes.Repeat([]byte{9}, 32), SigningKey: guestKey.Public().(ed25519.PublicKey), HeaderHash: header,
	})
	var got strings.Builder
	for _, line := range []struct {
		name  string
		bytes []byte
	}{
		{"lp", LP([]byte("a"), nil, []byte("bc"))},
		{"challenge", c.Signature},
		{"report_data", data[:]},
		{"info", GrantInfo(g.Context, request, nonce)},
		{"grant", g.Signature},
		{"event", e.Signature},
		{"answer", SignAck(brokerKey, "01jlease", e).Signature},
	} {
		fmt.Fprintf(&got, "%s %s\n", line.name, hex.EncodeToString(line.bytes))
	}
	fmt.Fprintf(&got, "kb %s\n", KeyHash(c.BrokerKey))
	want, err := os.ReadFile("testdata/vectors.txt")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got.String()); diff != "" {
		t.Errorf("protocol bytes changed (-want +got):\n%s", diff)
	}
}

func TestReportDataBindsEveryField(t *testing.T) {
	base := Binding{Challenge: "c", Nonce: nonce, Workspace: "w", Generation: 1, Purpose: Unlock, KEM: KEMX25519, HPKEKey: []byte("k"), SigningKey: []byte("s"), HeaderHash: header}
	seen := map[[64]byte]string{ReportData(base): "base"}
	for name, change := range map[string]func(*Binding){
		"challenge":   func(b *Binding) { b.Challenge = "d" },
		"nonce":       func(b *Binding) { b.Nonce = bytes.Repeat([]byte{8}, NonceSize) },
		"workspace":   func(b *Binding) { b.Workspace = "x" },
		"generation":  func(b *Binding) { b.Generation = 2 },
		"purpose":     func(b *Binding) { b.Purpose = Renew },
		"kem":         func(b *Binding) { b.KEM = KEMDefault },
		"hpke key":    func(b *Binding) { b.HPKEKey = []byte("l") },
		"signing key": func(b *Binding) { b.SigningKey = []byte("t") },
		"header":      func(b *Binding) { b.HeaderHash = "" },
		"moved byte":  func(b *Binding) { b.Challenge, b.Workspace = "", "cw" },
	} {
		b := base
		change(&b)
		d := ReportData(b)
		if other, ok := seen[d]; ok {
			t.Errorf("%s gives the same report data as %s", name, other)
		}
		seen[d] = name
	}
}

func TestSignatures(t *testing.T) {
	c, g := challenge(), grant()
	hash := KeyHash(brokerKey.Public().(ed25519.PublicKey))
	if err := VerifyChallenge(hash, request, c); err != nil {
		t.Errorf("genuine challenge: %v", err)
	}
	if len(hash) != 43 {
		t.Errorf("siesta.kb has %d characters, want 43", len(hash))
	}
	if VerifyChallenge(KeyHash(guestKey.Public().(ed25519.PublicKey)), request, c) == nil {
		t.Error("a challenge under another broker key was accepted")
	}
	other := request
	other.Generation++
	if VerifyChallenge(hash, other, c) == nil {
		t.Error("a challenge for another generation was accepted")
	}
	forged := challenge()
	SignChallenge(guestKey, request, &forged)
	if VerifyChallenge(hash, request, forged) == nil {
		t.Error("a challenge signed by somebody else was accepted")
	}
	b := brokerKey.Public().(ed25519.PublicKey)
	if err := VerifyGrant(b, "01jchallenge", nonce, g); err != nil {
		t.Errorf("genuine grant: %v", err)
	}
	for name, change := range map[string]func(*Grant){
		"sealed by somebody else": func(g *Grant) { g.Sealed.Ciphertext = []byte("other") },
		"enc and text shifted":    func(g *Grant) { g.Sealed = Box{Enc: []byte("encte"), Ciphertext: []byte("xt")} },
		"longer lease":            func(g *Grant) { g.Lease.Until = "2027-11-23T22:05:00Z" },
		"signed by somebody else": func(g *Grant) { SignGrant(guestKey, "01jchallenge", nonce, g) },
	} {
		g := grant()
		change(&g)
		if VerifyGrant(b, "01jchallenge", nonce, g) == nil {
			t.Errorf("grant %s was accepted", name)
		}
	}
	if VerifyGrant(nil, "01jchallenge", nonce, g) == nil {
		t.Error("a grant was accepted without a key")
	}
	e := Event{Seq: 1, Stage: Formatted, HeaderHash: header}
	SignEvent(guestKey, "l", &e)
	s := guestKey.Public().(ed25519.PublicKey)
	if VerifyEvent(s, "l", e) != nil || VerifyEvent(s, "m", e) == nil || VerifyEvent(b, "l", e) == nil {
		t.Error("event signature is not bound to lease and key")
	}
	a := SignAck(brokerKey, "l", e)
	if VerifyAck(b, "l", e, a) != nil {
		t.Error("genuine answer refused")
	}
	e.HeaderHash = strings.Repeat("cd", 32)
	if VerifyAck(b, "l", e, a) == nil {
		t.Error("answer for another header accepted")
	}
}

func TestSealAndOpen(t *testing.T) {
	want := Sealed{Mode: Open, VolumeSerial: "0123456789abcdef-1234", LUKSKey: bytes.Repeat([]byte{3}, LUKSKeySize), HeaderMACKey: bytes.Repeat([]byte{4}, HeaderMACKeySize), HeaderHash: header}
	ctx := Context{Project: "p", Volume: "v", PolicyHash: header}
	for _, kem := range []string{KEMDefault, KEMX25519} {
		t.Run(kem, func(t *testing.T) {
			k, err := GenerateKey(kem)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := ParseKey(k.Public()); err != nil || len(k.Public().PublicKey) != publicKeySize(kem) {
				t.Fatalf("own key refused: %v", err)
			}
			info := GrantInfo(ctx, request, nonce)
			box, err := Seal(k.Public(), info, want)
			if err != nil {
				t.Fatal(err)
			}
			got, err := k.Open(info, box)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got.LUKSKey, want.LUKSKey) || !bytes.Equal(got.HeaderMACKey, want.HeaderMACKey) || got.Mode != want.Mode || got.HeaderHash != want.HeaderHash {
				t.Error("what was opened is not what was sealed")
			}
			moved := ctx
			moved.Volume = "w"
			if _, err := k.Open(GrantInfo(moved, request, nonce), box); err == nil {
				t.Error("a box opened for another volume")
			}
			other, _ := GenerateKey(kem)
			if _, err := other.Open(info, box); err == nil {
				t.Error("a box opened with another key")
			}
			box.Ciphertext[0] ^= 1
			if _, err := k.Open(info, box); err == nil {
				t.Error("an altered box opened")
			}
		})
	}
	if _, err := Seal(HPKEKey{KEM: KEMX25519, PublicKey: make([]byte, 32)}, nil, want); err == nil {
		t.Error("sealed to a point of low order")
	}
	if _, err := (PublicKey{}).Seal(nil, want); err == nil {
		t.Error("sealed to no key")
	}
	if _, err := ParseKey(HPKEKey{KEM: KEMDefault, PublicKey: bytes.Repeat([]byte{0xff}, 1216)}); err == nil {
		t.Error("an encapsulation key outside the lattice was accepted")
	}
	if _, err := GenerateKey("RSA"); err == nil {
		t.Error("made a key of an unknown kind")
	}
	bad := want
	bad.Mode = Initialise
	k, _ := GenerateKey(KEMX25519)
	if _, err := Seal(k.Public(), nil, bad); err == nil {
		t.Error("sealed an initialise grant with a header hash")
	}
}

func TestDecodeRefuses(t *testing.T) {
	good := `{"workspace":"w","generation":1,"purpose":"unlock"}`
	if _, err := DecodeChallengeRequest([]byte(good)); err != nil {
		t.Fatalf("a good request: %v", err)
	}
	for name, body := range map[string]string{
		"empty":              "",
		"not an object":      `[]`,
		"duplicate":          `{"workspace":"w","workspace":"x","generation":1,"purpose":"unlock"}`,
		"duplicate by case":  `{"workspace":"w","Workspace":"x","generation":1,"purpose":"unlock"}`,
		"duplicate escaped":  `{"workspace":"w","work\u0073pace":"x","generation":1,"purpose":"unlock"}`,
		"unknown":            `{"workspace":"w","generation":1,"purpose":"unlock","x":1}`,
		"trailing":           good + `{}`,
		"trailing word":      good + ` x`,
		"null":               `{"workspace":null,"generation":1,"purpose":"unlock"}`,
		"fraction":           `{"workspace":"w","generation":1.5,"purpose":"unlock"}`,
		"exponent":           `{"workspace":"w","generation":1e3,"purpose":"unlock"}`,
		"generation as text": `{"workspace":"w","generation":"1","purpose":"unlock"}`,
		"generation 0":       `{"workspace":"w","generation":0,"purpose":"unlock"}`,
		"purpose":            `{"workspace":"w","generation":1,"purpose":"give"}`,
		"workspace":          `{"workspace":"../w","generation":1,"purpose":"unlock"}`,
		"too long":           strings.Repeat(" ", MaxChallengeRequest) + good,
		"deep":               strings.Repeat(`{"a":`, 10) + "1" + strings.Repeat("}", 10),
		"unterminated":       `{"workspace":"w`,
	} {
		if _, err := DecodeChallengeRequest([]byte(body)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	event := `{"seq":1,"stage":"formatted","header_hash":"` + header + `","detail":"","signature":"` + strings.Repeat("A", 86) + `=="}`
	if _, err := DecodeEvent([]byte(event)); err != nil {
		t.Errorf("a good event: %v", err)
	}
	if _, err := DecodeEvent([]byte(strings.Replace(event, header, "", 1))); err == nil {
		t.Error("formatted without a header hash accepted")
	}
	if _, err := DecodeEvent([]byte(strings.Replace(event, "formatted", "ready", 1))); err == nil {
		t.Error("a header hash outside formatted accepted")
	}
}

func TestMessagesSurviveTheWire(t *testing.T) {
	c, g := challenge(), grant()
	body, _ := json.Marshal(c)
	if got, err := DecodeChallenge(body); err != nil || cmp.Diff(c, got) != "" {
		t.Errorf("challenge: %v", err)
	}
	g.Sealed = Box{} // a renewal
	body, _ = json.Marshal(g)
	if got, err := DecodeGrant(body); err != nil || cmp.Diff(g, got) != "" {
		t.Errorf("grant: %v %s", err, cmp.Diff(g, got))
	}
	k, _ := GenerateKey(KEMDefault)
	r := GrantRequest{Challenge: "c", Evidence: Evidence{TEE: "sev-snp", Report: make([]byte, 1184), Certificates: []byte("pem")}, HPKE: k.Public(), SigningKey: guestKey.Public().(ed25519.PublicKey)}
	body, _ = json.Marshal(r)
	if got, err := DecodeGrantRequest(body); err != nil || cmp.Diff(r, got) != "" {
		t.Errorf("grant request: %v %s", err, cmp.Diff(r, got))
	}
	body, _ = json.Marshal(EventAnswer{Seq: 2})
	if _, err := DecodeEventAnswer(body); err != nil {
		t.Errorf("event answer: %v", err)
	}
}

// The door takes the evidence of a trust domain whose firmware left the whole area of its log, beside the longest report
// and the longest keys; and not a byte more of it.
func TestLongestEvidence(t *testing.T) {
	log, err := os.ReadFile("../attest/testdata/tdx/ccel-ovmf.bin")
	if err != nil || len(log) != MaxEventLog {
		t.Fatalf("%d bytes of a real log, %v", len(log), err)
	}
	k, _ := GenerateKey(KEMDefault)
	r := GrantRequest{
		Challenge: strings.Repeat("c", maxChallenge), Evidence: Evidence{TEE: "tdx", Report: make([]byte, maxReport), EventLog: log},
		HPKE: k.Public(), SigningKey: guestKey.Public().(ed25519.PublicKey), HeaderHash: header,
	}
	body, _ := json.Marshal(r)
	if got, err := DecodeGrantRequest(body); err != nil || cmp.Diff(r, got) != "" {
		t.Errorf("%d bytes: %v", len(body), err)
	}
	r.Evidence.EventLog = append(log, 0xff)
	body, _ = json.Marshal(r)
	if _, err := DecodeGrantRequest(body); err == nil || !strings.Contains(err.Error(), "event_log") {
		t.Errorf("a longer log: %v", err)
	}
}

func TestSecretNeverPrints(t *testing.T) {
	canary := "canary-canary-canary"
	s := Sealed{Mode: Open, LUKSKey: Secret(canary), HeaderMACKey: Secret(canary)}
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%X", "%q", "%d", "%c", "%U"} {
		fmt.Fprintf(&out, verb+" "+verb+" "+verb+"\n", s, &s, s.LUKSKey)
	}
	j, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	out.Write(j)
	slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "secret", s.LUKSKey, "sealed", s)
	for _, form := range []string{canary, hex.EncodeToString([]byte(canary)), strings.ToUpper(hex.EncodeToString([]byte(canary))), "Y2FuYXJ5", "99 97 110"} {
		if strings.Contains(out.String(), form) {
			t.Errorf("the secret was printed as %q", form)
		}
	}
	var back Secret
	if json.Unmarshal([]byte(`"[redacted]"`), &back) == nil {
		t.Error("a redacted secret was read back")
	}
}

func FuzzDecodeChallengeRequest(f *testing.F) { fuzz(f, DecodeChallengeRequest, request) }
func FuzzDecodeChallenge(f *testing.F)        { fuzz(f, DecodeChallenge, challenge()) }
func FuzzDecodeGrant(f *testing.F)            { fuzz(f, DecodeGrant, grant()) }
func FuzzDecodeEvent(f *testing.F) {
	e := Event{Seq: 1, Stage: Formatted, HeaderHash: header}
	SignEvent(guestKey, "l", &e)
	fuzz(f, DecodeEvent, e)
}

func FuzzDecodeEventAnswer(f *testing.F) {
	fuzz(f, DecodeEventAnswer, SignAck(brokerKey, "l", Event{Seq: 1}))
}

func FuzzDecodeGrantRequest(f *testing.F) {
	fuzz(f, DecodeGrantRequest, GrantRequest{
		Challenge: "c", Evidence: Evidence{TEE: "sev-snp", Report: []byte("r")},
		HPKE: HPKEKey{KEM: KEMX25519, PublicKey: make([]byte, 32)}, SigningKey: guestKey.Public().(ed25519.PublicKey),
	})
}

func FuzzDecodeSealed(f *testing.F) {
	fuzz(f, func(b []byte) (sealedJSON, error) { return decode[sealedJSON](b, maxCiphertext, "sealed grant") },
		sealedJSON{Mode: Initialise, VolumeSerial: "v", LUKSKey: make([]byte, LUKSKeySize), HeaderMACKey: make([]byte, HeaderMACKeySize)})
}

// fuzz checks that a decoder never panics, and that what it accepts it accepts again after encoding, unchanged.
func fuzz[T any](f *testing.F, dec func([]byte) (T, error), seed T) {
	body, err := json.Marshal(seed)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(body)
	f.Add([]byte(`{"a":{"b":["c",{"d":"\""}]}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		v, err := dec(body)
		if err != nil {
			return
		}
		again, err := json.Marshal(v)
		if err != nil {
			t.Fatalf("encoding what was accepted: %v", err)
		}
		w, err := dec(again)
		if err != nil {
			t.Fatalf("%s accepted, its own encoding %s refused: %v", body, again, err)
		}
		if x, _ := json.Marshal(w); !bytes.Equal(x, again) {
			t.Fatalf("%s changed on the way: %s", again, x)
		}
	})
}

package audit

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"testing"

	"golang.org/x/mod/sumdb/tlog"
)

// signedLog builds an export, a receipt and checkpoints without a database.
func signedLog(f testing.TB) (v Verifier, export, receipt, checkpoint []byte) {
	f.Helper()
	sign, err := newSigner(origin, testKey)
	if err != nil {
		f.Fatal(err)
	}
	if v, err = NewVerifier(VerifierKey(origin, testKey.Public().(ed25519.PublicKey))); err != nil {
		f.Fatal(err)
	}
	var out bytes.Buffer
	fmt.Fprintf(&out, "%s\norigin %s\n", exportHeader, origin)
	e := newEdge()
	for first := int64(0); first < 6; first = e.size {
		var leaves []tlog.Hash
		var packed []byte
		var bodies bytes.Buffer
		for i := range first/2 + 1 {
			body := fmt.Appendf(nil, `{"v":1,"n":%d}`, first+i)
			leaf := tlog.RecordHash(body)
			leaves, packed = append(leaves, leaf), append(packed, leaf[:]...)
			fmt.Fprintf(&bodies, "entry %d %d\n%s\n", first+i, len(body), body)
		}
		e.grow(leaves)
		if checkpoint, err = sign.sign(e.tree()); err != nil {
			f.Fatal(err)
		}
		fmt.Fprintf(&out, "batch %d %d %s\n", first, len(leaves), base64.StdEncoding.EncodeToString(packed))
		out.Write(bodies.Bytes())
		fmt.Fprintf(&out, "checkpoint %d %d\n%s\n", e.size, len(checkpoint), checkpoint)
		s := snapshot{tree: e.tree(), checkpoint: checkpoint, edge: e}
		r, err := s.receipt(first)
		if err != nil {
			f.Fatal(err)
		}
		receipt = []byte(r.Proof)
	}
	fmt.Fprintf(&out, "end %d\n", e.size)
	return v, out.Bytes(), receipt, checkpoint
}

func TestSignedLog(t *testing.T) {
	v, export, receipt, checkpoint := signedLog(t)
	saved, err := v.Checkpoint(checkpoint)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.VerifyExport(bytes.NewReader(export), &saved); err != nil {
		t.Fatal(err)
	}
	if _, _, err := v.ReceiptCheckpoint(receipt); err != nil {
		t.Fatal(err)
	}
	if _, err := (Verifier{}).VerifyExport(bytes.NewReader(export), nil); err == nil {
		t.Error("a verifier without a key accepts an export")
	}
	if _, err := (Verifier{}).Checkpoint(checkpoint); err == nil {
		t.Error("a verifier without a key accepts a checkpoint")
	}
	// A checkpoint is not to be had with another key, nor under another name.
	other := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{9}, ed25519.SeedSize)).Public().(ed25519.PublicKey)
	for _, key := range []string{VerifierKey(origin, other), VerifierKey("elsewhere", testKey.Public().(ed25519.PublicKey))} {
		w, err := NewVerifier(key)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Checkpoint(checkpoint); err == nil {
			t.Errorf("%s accepts it", key)
		}
	}
}

// FuzzExport: no input that differs from the signed log verifies, and every
// input ends.
func FuzzExport(f *testing.F) {
	v, export, _, _ := signedLog(f)
	f.Add(export)
	f.Add(export[:len(export)/2])
	f.Add([]byte(exportHeader + "\norigin " + origin + "\nend 0\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		sum, err := v.VerifyExport(bytes.NewReader(in), nil)
		if err == nil && sum.Checkpoint.Size == 0 {
			t.Fatal("an export without entries or a head passes")
		}
	})
}

// FuzzReceipt: what verifies is the entry at the claimed index under a signed head.
func FuzzReceipt(f *testing.F) {
	v, _, receipt, _ := signedLog(f)
	f.Add(receipt, []byte(`{"v":1,"n":3}`))
	f.Add([]byte(receiptHeader+"\nextra AAAA\nindex 0\n\n"), []byte("x"))
	f.Fuzz(func(t *testing.T, text, entry []byte) {
		index, _, err := v.Receipt(text, entry)
		if err == nil && string(entry) != fmt.Sprintf(`{"v":1,"n":%d}`, index) {
			t.Fatalf("entry %d verified as %q", index, entry)
		}
	})
}

func FuzzCheckpoint(f *testing.F) {
	v, _, _, checkpoint := signedLog(f)
	f.Add(checkpoint)
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := v.Checkpoint(text)
		if err == nil && (c.Origin != origin || c.Size < 1 || c.Size > 10) {
			t.Fatalf("a head of size %d of %s was never signed", c.Size, c.Origin)
		}
	})
}

func FuzzConsistency(f *testing.F) {
	f.Add([]byte(FormatConsistency(tlog.TreeProof{{1}, {2}})))
	f.Fuzz(func(t *testing.T, text []byte) {
		proof, err := ParseConsistency(text)
		if err != nil {
			return
		}
		again, err := ParseConsistency([]byte(FormatConsistency(proof)))
		if err != nil || len(again) != len(proof) {
			t.Fatalf("%v does not survive", proof)
		}
	})
}

func FuzzVerifierKey(f *testing.F) {
	f.Add(VerifierKey(origin, testKey.Public().(ed25519.PublicKey)))
	f.Fuzz(func(t *testing.T, key string) {
		if v, err := NewVerifier(key); err == nil && v.Origin() == "" {
			t.Fatal("a key without a name")
		}
	})
}

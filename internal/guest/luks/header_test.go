package luks

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/eosc-siesta/siestad/internal/door"
)

// rig is one disk, as a file, with its keys. Nothing here needs the device mapper.
type rig struct {
	*testing.T
	tools    Tools
	disk     string
	key, mac door.Secret
}

func newRig(t *testing.T) *rig {
	t.Helper()
	dir := t.TempDir()
	r := &rig{T: t, disk: filepath.Join(dir, "disk"), key: make(door.Secret, door.LUKSKeySize), mac: make(door.Secret, door.HeaderMACKeySize)}
	r.tools = Tools{Cryptsetup: "cryptsetup", Mke2fs: "mke2fs", Dir: dir}
	t.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin:/sbin")
	rand.Read(r.key)
	rand.Read(r.mac)
	if err := os.WriteFile(r.disk, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(r.disk, 32<<20); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *rig) format() *Header {
	r.Helper()
	h, err := r.tools.newHeader(context.Background(), r.disk, r.key, r.mac)
	if err != nil {
		r.Fatal(err)
	}
	r.put(h)
	return h
}

// put writes a header with the seal that whoever holds the MAC key can make.
func (r *rig) put(h *Header) {
	r.Helper()
	if err := writeAt(r.disk, append(bytes.Clone(h.region), seal(h.region, r.mac)...), 0); err != nil {
		r.Fatal(err)
	}
}

func (r *rig) read(hash string) (*Header, error) {
	r.Helper()
	f, err := os.Open(r.disk)
	if err != nil {
		r.Fatal(err)
	}
	defer f.Close()
	return ReadHeader(f, r.mac, hash)
}

func (r *rig) refuses(hash, why string) {
	r.Helper()
	if _, err := r.read(hash); err == nil || !strings.Contains(err.Error(), why) {
		r.Errorf("got %v, want a refusal that says %q", err, why)
	}
}

// shell runs the real cryptsetup on a copy of a header, as an attacker with the
// key could, and returns what it made of it.
func (r *rig) cryptsetup(h *Header, args ...string) *Header {
	r.Helper()
	path, key := filepath.Join(r.TempDir(), "header"), filepath.Join(r.TempDir(), "key")
	var region []byte
	if h != nil {
		region = h.region
	} else {
		region = make([]byte, HeaderSize)
	}
	if err := os.WriteFile(path, region, 0o600); err != nil {
		r.Fatal(err)
	}
	if err := os.WriteFile(key, r.key, 0o600); err != nil {
		r.Fatal(err)
	}
	for i, a := range args {
		args[i] = strings.NewReplacer("HEADER", path, "KEY", key, "DISK", r.disk).Replace(a)
	}
	if out, err := exec.Command("cryptsetup", append([]string{"--batch-mode", "--disable-locks"}, args...)...).CombinedOutput(); err != nil {
		r.Fatalf("cryptsetup %q: %v: %s", args, err, out)
	}
	region, err := os.ReadFile(path)
	if err != nil {
		r.Fatal(err)
	}
	region = append(region, make([]byte, HeaderSize)...)[:HeaderSize]
	return &Header{region: region}
}

func TestFormattedHeaderReadsBackAndOpens(t *testing.T) {
	r := newRig(t)
	h := r.format()
	got, err := r.read(h.Hash())
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.region, h.region) {
		t.Error("another header came back")
	}
	path := filepath.Join(t.TempDir(), "copy")
	if err := os.WriteFile(path, got.region, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := r.tools.run(t.Context(), "cryptsetup", r.key, "open", "--disable-locks", "--test-passphrase",
		"--header", path, "--key-file", "-", "--keyfile-size", "64", r.disk); err != nil {
		t.Errorf("the copy does not open: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(r.tools.Dir, "*header*")); len(left) != 0 {
		t.Errorf("left behind: %q", left)
	}
}

func TestRefusesWhatIsNotAuthentic(t *testing.T) {
	r := newRig(t)
	blank := strings.Repeat("0", 64)
	r.refuses(blank, "not authentic") // never formatted
	h := r.format()
	flip := func(at int64) {
		t.Helper()
		f, err := os.OpenFile(r.disk, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		var b [1]byte
		if _, err := f.ReadAt(b[:], at); err != nil {
			t.Fatal(err)
		}
		b[0] ^= 1
		if _, err := f.WriteAt(b[:], at); err != nil {
			t.Fatal(err)
		}
	}
	for _, at := range []int64{0, 20, binarySize + 5, metadataSize, 2 * metadataSize, 2*metadataSize + keyslotsSize, HeaderSize - 1, HeaderSize, HeaderSize + int64(len(sealLabel)), DataOffset - 1} {
		flip(at)
		r.refuses(h.Hash(), "not authentic")
		flip(at)
	}
	if _, err := r.read(h.Hash()); err != nil {
		t.Fatalf("restored, and yet: %v", err)
	}
	r.mac[0] ^= 1
	r.refuses(h.Hash(), "not authentic")
	r.mac = nil
	r.refuses(h.Hash(), "no MAC key")
}

func TestRefusesAnOlderHeader(t *testing.T) {
	r := newRig(t)
	old := r.format()
	now := r.format()
	if old.Hash() == now.Hash() {
		t.Fatal("two formats gave one header")
	}
	r.put(old)
	r.refuses(now.Hash(), "older header")
	r.put(now)
	if _, err := r.read(now.Hash()); err != nil {
		t.Error(err)
	}
}

// Every header here carries a right MAC and a right hash: only its shape is wrong.
func TestRefusesOtherShapes(t *testing.T) {
	format := func(cipher, offset, sector, kdf string) []string {
		return []string{
			"luksFormat", "--type", "luks2", "--header", "HEADER", "--cipher", cipher, "--key-size", "512", "--offset", offset,
			"--sector-size", sector, "--pbkdf", kdf, "--pbkdf-force-iterations", "1000",
			"--luks2-metadata-size", "16k", "--luks2-keyslots-size", "512k", "--key-file", "KEY", "DISK",
		}
	}
	otherMode := format("aes-cbc-essiv:sha256", "2048", "512", "pbkdf2")
	otherMode[8] = "256"
	for name, c := range map[string]struct {
		fresh bool
		args  []string
		why   string
	}{
		"other mode":      {true, otherMode, "aes-cbc-essiv"},
		"moved segment":   {true, format(cipher, "4096", "4096", "pbkdf2"), "lies elsewhere"},
		"other sectors":   {true, format(cipher, "2048", "512", "pbkdf2"), "other sectors"},
		"extra keyslot":   {false, []string{"luksAddKey", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--key-file", "KEY", "HEADER", "KEY"}, "2 keyslots"},
		"unbound keyslot": {false, []string{"luksAddKey", "--unbound", "--key-size", "512", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--key-slot", "3", "HEADER", "KEY"}, "2 keyslots"},
		"no keyslot":      {false, []string{"luksErase", "HEADER"}, "0 keyslots"},
		"token":           {false, []string{"token", "add", "--key-description", "x", "HEADER"}, "more than this guest knows"},
		"flag":            {false, []string{"config", "--priority", "prefer", "--key-slot", "0", "HEADER"}, "more than this guest knows"},
		"LUKS1":           {true, []string{"luksFormat", "--type", "luks1", "--header", "HEADER", "--pbkdf-force-iterations", "1000", "--key-file", "KEY", "DISK"}, "not LUKS version 2"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			h := r.format()
			if c.fresh {
				h = nil
			}
			changed := r.cryptsetup(h, c.args...)
			r.put(changed)
			r.refuses(changed.Hash(), c.why)
		})
	}
}

// What no cryptsetup writes but a careful attacker could: the JSON or the binary part
// edited, checksums, MAC and hash all made right again.
func TestRefusesEditedMetadata(t *testing.T) {
	for name, edit := range map[string]struct{ from, to, why string }{
		"null cipher":    {`"iv_tweak":"0","encryption":"aes-xts-plain64"`, `"iv_tweak":"0","encryption":"cipher_null-ecb"`, "cipher_null-ecb"},
		"null keyslot":   {`"size":"258048","encryption":"aes-xts-plain64"`, `"size":"258048","encryption":"cipher_null-ecb"`, "the keyslot is encrypted otherwise"},
		"requirement":    {`"json_size":"12288"`, `"json_size":"12288","requirements":{"mandatory":["online-reencrypt"]}`, "more than"},
		"second segment": {`"segments":{`, `"segments":{"1":{"type":"linear","offset":"0","size":"dynamic"},`, "2 segments"},
		"linear segment": {`"segments":{"0":{"type":"crypt"`, `"segments":{"0":{"type":"linear"`, "linear"},
		"integrity":      {`"sector_size":4096`, `"sector_size":4096,"integrity":{"type":"none"}`, "more than"},
		"weak kdf":       {`"iterations":1000`, `"iterations":1`, "derives its key otherwise"},
		"second digest":  {`"digests":{`, `"digests":{"1":{"type":"pbkdf2"},`, "2 digests"},
		"digest of none": {`"segments":["0"]`, `"segments":["1"]`, "other keyslots or segments"},
		"tail":           {`"keyslots_size":"524288"}}`, `"keyslots_size":"524288"}}{}`, "follows"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			h := r.format()
			for at := 0; at <= metadataSize; at += metadataSize {
				b := h.region[at : at+metadataSize]
				text := bytes.TrimRight(b[binarySize:], "\x00")
				edited := bytes.Replace(text, []byte(edit.from), []byte(edit.to), 1)
				if bytes.Equal(text, edited) {
					t.Fatalf("nothing to edit in %s", text)
				}
				clear(b[binarySize:])
				copy(b[binarySize:], edited)
				clear(b[448:512])
				sum := sha256.Sum256(b)
				copy(b[448:], sum[:])
			}
			r.put(h)
			r.refuses(h.Hash(), edit.why)
		})
	}
}

func TestRefusesTwoDifferentCopies(t *testing.T) {
	r := newRig(t)
	h := r.format()
	b := h.region[metadataSize : 2*metadataSize]
	b[16+7]++ // a higher sequence number in the second copy, which cryptsetup would prefer
	clear(b[448:512])
	sum := sha256.Sum256(b)
	copy(b[448:], sum[:])
	r.put(h)
	r.refuses(h.Hash(), "copies of the metadata differ")
}

func TestKeysAreNotPrinted(t *testing.T) {
	r := newRig(t)
	r.tools.Cryptsetup = "/bin/false"
	_, err := r.tools.newHeader(t.Context(), r.disk, r.key, r.mac)
	if err == nil {
		t.Fatal("no error")
	}
	if strings.Contains(fmt.Sprintf("%+v %v", err, r), string(r.key[:8])) {
		t.Error("the error shows the key")
	}
}

func TestFormatNeedsKeys(t *testing.T) {
	r := newRig(t)
	if _, err := r.tools.newHeader(t.Context(), r.disk, nil, r.mac); err == nil {
		t.Error("formatted without a key")
	}
}

func FuzzJudge(f *testing.F) {
	f.Add([]byte(`{"keyslots":{},"tokens":{},"segments":{},"digests":{},"config":{}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		if judgeJSON(text) == nil && bytes.Contains(text, []byte("null")) {
			t.Errorf("accepted %q", text)
		}
	})
}

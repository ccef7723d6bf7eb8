package machine

import (
	"bytes"
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func sysWith(t *testing.T, serials map[string]string) string {
	t.Helper()
	sys := t.TempDir()
	for name, serial := range serials {
		dir := filepath.Join(sys, "block", name)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if serial != "-" {
			if err := os.WriteFile(filepath.Join(dir, "serial"), []byte(serial), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	return sys
}

func TestDisk(t *testing.T) {
	over, cancel := context.WithCancel(t.Context())
	cancel()
	sys := sysWith(t, map[string]string{"vda": "", "vdb": "wanted\n", "vdc": "twice", "vdd": "twice", "loop0": "-"})
	for serial, want := range map[string]string{"wanted": "/dev/vdb", "twice": "", "absent": "", "": ""} {
		got, err := Disk(over, sys, serial)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: got %q, %v, want %q", serial, got, err, want)
		}
	}
}

func answer(kind byte, id [4]byte, mac net.HardwareAddr, options ...byte) []byte {
	b := message(kind, id, mac, netip.Addr{}, netip.Addr{})[:dhcpFixed]
	b[0] = 2
	copy(b[16:], []byte{10, 0, 2, 15})
	b = append(b, optType, 1, kind)
	return append(append(b, options...), optEnd)
}

func TestParse(t *testing.T) {
	id, mac := [4]byte{1, 2, 3, 4}, net.HardwareAddr{2, 0, 0, 0, 0, 1}
	mask := []byte{optMask, 4, 255, 255, 255, 0}
	a := netip.MustParseAddr
	for name, c := range map[string]struct {
		options []byte
		want    Offer
		refused bool
	}{
		"plain": {
			append(bytes.Clone(mask), optRouter, 4, 10, 0, 2, 2, optDNS, 8, 10, 0, 2, 3, 10, 0, 2, 4, optLease, 4, 0, 1, 0x51, 0x80, optServer, 4, 10, 0, 2, 2),
			Offer{Address: netip.MustParsePrefix("10.0.2.15/24"), Routes: []Route{{netip.MustParsePrefix("0.0.0.0/0"), a("10.0.2.2")}}, Servers: []netip.Addr{a("10.0.2.3"), a("10.0.2.4")}, Lease: 24 * time.Hour, server: a("10.0.2.2")},
			false,
		},
		"as Neutron does": {
			append(bytes.Clone(mask), optRouter, 4, 9, 9, 9, 9, optMTU, 2, 0x05, 0xaa, optClasless, 14, 0, 10, 0, 2, 1, 32, 169, 254, 169, 254, 0, 0, 0, 0),
			Offer{Address: netip.MustParsePrefix("10.0.2.15/24"), Routes: []Route{{netip.MustParsePrefix("169.254.169.254/32"), a("0.0.0.0")}, {netip.MustParsePrefix("0.0.0.0/0"), a("10.0.2.1")}}, MTU: 1450, Lease: time.Hour},
			false,
		},
		"no mask":         {nil, Offer{}, true},
		"holes in mask":   {[]byte{optMask, 4, 255, 0, 255, 0}, Offer{}, true},
		"empty mask":      {[]byte{optMask, 4, 0, 0, 0, 0}, Offer{}, true},
		"cut off":         {append(bytes.Clone(mask), optDNS, 9, 1), Offer{}, true},
		"routes cut off":  {append(bytes.Clone(mask), optClasless, 3, 24, 10, 0), Offer{}, true},
		"routes too wide": {append(bytes.Clone(mask), optClasless, 1, 33), Offer{}, true},
	} {
		t.Run(name, func(t *testing.T) {
			kind, got, err := parse(answer(dhcpAck, id, mac, c.options...), id, mac)
			if c.refused {
				if err == nil {
					t.Fatalf("accepted %+v", got)
				}
				return
			}
			if err != nil || kind != dhcpAck {
				t.Fatal(kind, err)
			}
			if diff := cmp.Diff(c.want, got, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}), cmp.AllowUnexported(Offer{}), cmpopts.EquateEmpty()); diff != "" {
				t.Error(diff)
			}
		})
	}
	if _, _, err := parse(answer(dhcpAck, [4]byte{9}, mac, mask...), id, mac); err == nil {
		t.Error("another's answer accepted")
	}
}

func FuzzParse(f *testing.F) {
	id, mac := [4]byte{1, 2, 3, 4}, net.HardwareAddr{2, 0, 0, 0, 0, 1}
	f.Add(answer(dhcpAck, id, mac, optMask, 4, 255, 255, 255, 0, optClasless, 9, 32, 169, 254, 169, 254, 0, 0, 0, 0))
	f.Fuzz(func(t *testing.T, b []byte) {
		if kind, o, err := parse(b, id, mac); err == nil && kind != dhcpNak && (!o.Address.IsValid() || len(o.Routes) > 16 || len(o.Servers) > 3) {
			t.Errorf("accepted %+v", o)
		}
	})
}

func TestIsPress(t *testing.T) {
	event := func(kind, code uint16, value uint32) []byte {
		b := make([]byte, eventSize)
		binary.LittleEndian.PutUint16(b[16:], kind)
		binary.LittleEndian.PutUint16(b[18:], code)
		binary.LittleEndian.PutUint32(b[20:], value)
		return b
	}
	if !isPress(event(evKey, keyPower, 1)) {
		t.Error("a press is not seen")
	}
	if isPress(event(evKey, keyPower, 0)) || isPress(event(evKey, 30, 1)) || isPress(event(2, keyPower, 1)) {
		t.Error("something else counts as a press")
	}
}

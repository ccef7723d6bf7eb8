package machine

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Offer is what a DHCP server gave (RFC 2131, and RFC 3442 for routes).
type Offer struct {
	Address netip.Prefix
	Routes  []Route
	Servers []netip.Addr // name servers
	MTU     int          // 0: keep the card's
	Lease   time.Duration
	server  netip.Addr
}

// Route is one destination; an unspecified Via means on this link.
type Route struct {
	To  netip.Prefix
	Via netip.Addr
}

const (
	dhcpDiscover = 1
	dhcpOffer    = 2
	dhcpRequest  = 3
	dhcpAck      = 5
	dhcpNak      = 6

	optMask, optRouter, optDNS, optMTU    = 1, 3, 6, 26
	optWanted, optLease, optType          = 50, 51, 53
	optServer, optParameters, optClasless = 54, 55, 121
	optEnd                                = 255

	dhcpFixed = 240 // bytes before the options, cookie included
)

var dhcpCookie = []byte{0x63, 0x82, 0x53, 0x63}

var errRefusedAddress = errors.New("the server took its offer back")

// negotiate runs discover, offer, request, acknowledge until ctx ends. With want it asks for an
// address that it already has.
func negotiate(ctx context.Context, card net.Interface, want netip.Addr) (Offer, error) {
	conn, err := listen(ctx, card.Name)
	if err != nil {
		return Offer{}, fmt.Errorf("asking for an address on %s: %w", card.Name, err)
	}
	defer conn.Close()
	var last error
	for wait := time.Second; ctx.Err() == nil; wait = min(2*wait, 16*time.Second) {
		var id [4]byte
		rand.Read(id[:])
		offer, err := ask(ctx, conn, message(dhcpDiscover, id, card.HardwareAddr, want, netip.Addr{}), id, wait)
		if err == nil {
			offer, err = ask(ctx, conn, message(dhcpRequest, id, card.HardwareAddr, offer.Address.Addr(), offer.server), id, wait)
		}
		if err == nil {
			return offer, nil
		}
		last = err
	}
	return Offer{}, fmt.Errorf("asking for an address on %s: %w", card.Name, errors.Join(ctx.Err(), last))
}

// listen opens the client's port on one card that has no address yet.
func listen(ctx context.Context, card string) (*net.UDPConn, error) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var inner error
		err := c.Control(func(fd uintptr) {
			inner = errors.Join(
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BROADCAST, 1),
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
				unix.BindToDevice(int(fd), card))
		})
		return errors.Join(err, inner)
	}}
	conn, err := lc.ListenPacket(ctx, "udp4", "0.0.0.0:68")
	if err != nil {
		return nil, err
	}
	return conn.(*net.UDPConn), nil
}

// ask sends one message and waits for an answer to it.
func ask(ctx context.Context, conn *net.UDPConn, msg []byte, id [4]byte, wait time.Duration) (Offer, error) {
	if _, err := conn.WriteToUDPAddrPort(msg, netip.MustParseAddrPort("255.255.255.255:67")); err != nil {
		return Offer{}, err
	}
	want := byte(dhcpOffer)
	if msg[dhcpFixed+2] == dhcpRequest {
		want = dhcpAck
	}
	if err := conn.SetReadDeadline(time.Now().Add(wait)); err != nil {
		return Offer{}, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	buf := make([]byte, 1500)
	for {
		n, _, err := conn.ReadFromUDPAddrPort(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return Offer{}, errors.New("no DHCP server answers")
		}
		if err != nil {
			return Offer{}, err
		}
		kind, offer, err := parse(buf[:n], id, msg[28:34])
		if err == nil && kind == dhcpNak {
			return Offer{}, errRefusedAddress
		}
		if err == nil && kind == want {
			return offer, nil
		}
	}
}

// message writes one BOOTP request. The broadcast bit asks for an answer that a card without an
// address can hear.
func message(kind byte, id [4]byte, mac net.HardwareAddr, want, server netip.Addr) []byte {
	b := make([]byte, dhcpFixed, 300)
	b[0], b[1], b[2] = 1, 1, 6
	copy(b[4:], id[:])
	b[10] = 0x80
	copy(b[28:], mac)
	copy(b[236:], dhcpCookie)
	b = append(b, optType, 1, kind)
	for _, o := range []struct {
		code byte
		addr netip.Addr
	}{{optWanted, want}, {optServer, server}} {
		if o.addr.IsValid() {
			a := o.addr.As4()
			b = append(append(b, o.code, 4), a[:]...)
		}
	}
	b = append(b, optParameters, 5, optMask, optRouter, optDNS, optMTU, optClasless, optEnd)
	return append(b, make([]byte, 300-len(b))...) // some servers ignore less than a BOOTP message
}

// parse reads an answer from the host's network: everything in it is bounded before use.
func parse(b []byte, id [4]byte, mac []byte) (byte, Offer, error) {
	if len(b) < dhcpFixed || b[0] != 2 || !bytes.Equal(b[4:8], id[:]) || !bytes.Equal(b[28:34], mac) || !bytes.Equal(b[236:240], dhcpCookie) {
		return 0, Offer{}, errors.New("not an answer to us")
	}
	options, err := split(b[dhcpFixed:])
	if err != nil {
		return 0, Offer{}, err
	}
	if len(options[optType]) != 1 {
		return 0, Offer{}, errors.New("no message type")
	}
	kind := options[optType][0]
	if kind == dhcpNak {
		return kind, Offer{}, nil
	}
	mask, ok := word(options[optMask])
	address := netip.AddrFrom4([4]byte(b[16:20]))
	bits := 0
	for bits < 32 && mask&(1<<(31-bits)) != 0 {
		bits++
	}
	if !ok || mask != ^uint32(0)<<(32-bits) || bits == 0 || address.IsUnspecified() || address.IsMulticast() || address.IsLoopback() {
		return 0, Offer{}, errors.New("no usable address")
	}
	o := Offer{Address: netip.PrefixFrom(address, bits), Lease: time.Hour}
	if s, ok := netip.AddrFromSlice(options[optServer]); ok && s.Is4() {
		o.server = s
	}
	if seconds, ok := word(options[optLease]); ok {
		o.Lease = time.Duration(seconds) * time.Second
	}
	if m := options[optMTU]; len(m) == 2 {
		if mtu := int(binary.BigEndian.Uint16(m)); mtu >= 576 {
			o.MTU = mtu
		}
	}
	for d := options[optDNS]; len(d) >= 4 && len(o.Servers) < 3; d = d[4:] {
		o.Servers = append(o.Servers, netip.AddrFrom4([4]byte(d[:4])))
	}
	if o.Routes, err = classless(options[optClasless]); err != nil {
		return 0, Offer{}, err
	}
	// RFC 3442: a server that gives classless routes means them instead of the router.
	if r := options[optRouter]; len(o.Routes) == 0 && len(r) >= 4 {
		o.Routes = []Route{{To: netip.PrefixFrom(netip.IPv4Unspecified(), 0), Via: netip.AddrFrom4([4]byte(r[:4]))}}
	}
	return kind, o, nil
}

func split(b []byte) (map[byte][]byte, error) {
	out := map[byte][]byte{}
	for len(b) > 0 {
		code := b[0]
		if code == optEnd {
			return out, nil
		}
		if code == 0 {
			b = b[1:]
			continue
		}
		if len(b) < 2 || len(b) < 2+int(b[1]) {
			return nil, errors.New("an option is cut off")
		}
		out[code] = append(out[code], b[2:2+int(b[1])]...) // RFC 3396: long options come in parts
		b = b[2+int(b[1]):]
	}
	return out, nil
}

func word(b []byte) (uint32, bool) {
	if len(b) != 4 {
		return 0, false
	}
	return binary.BigEndian.Uint32(b), true
}

func classless(b []byte) ([]Route, error) {
	var out []Route
	for len(b) > 0 {
		bits := int(b[0])
		size := (bits + 7) / 8
		if bits > 32 || len(b) < 1+size+4 || len(out) == 16 {
			return nil, errors.New("malformed routes")
		}
		var to [4]byte
		copy(to[:], b[1:1+size])
		out = append(out, Route{
			To:  netip.PrefixFrom(netip.AddrFrom4(to), bits).Masked(),
			Via: netip.AddrFrom4([4]byte(b[1+size : 5+size])),
		})
		b = b[5+size:]
	}
	// A gateway must be reachable before it is used: routes on the link come first.
	for i, j := 0, 0; i < len(out); i++ {
		if out[i].Via.IsUnspecified() {
			out[i], out[j] = out[j], out[i]
			j++
		}
	}
	return out, nil
}

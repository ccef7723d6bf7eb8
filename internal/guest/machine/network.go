package machine

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Network brings the first real network card up by DHCP, for which it waits until wait ends, and keeps the
// address until life ends. It returns what was agreed, for the console.
func Network(wait, life context.Context) (Offer, error) {
	if err := up("lo"); err != nil {
		return Offer{}, err
	}
	card, err := firstCard(wait)
	if err != nil {
		return Offer{}, err
	}
	if err := up(card.Name); err != nil {
		return Offer{}, err
	}
	offer, err := negotiate(wait, card, netip.Addr{})
	if err != nil {
		return Offer{}, err
	}
	if err := apply(card, offer); err != nil {
		return Offer{}, err
	}
	go renew(life, card, offer)
	return offer, nil
}

// firstCard waits for a card that has a device behind it.
func firstCard(ctx context.Context) (net.Interface, error) {
	for {
		cards, err := net.Interfaces()
		if err != nil {
			return net.Interface{}, fmt.Errorf("listing network cards: %w", err)
		}
		for _, c := range cards {
			if _, err := os.Stat(filepath.Join("/sys/class/net", c.Name, "device")); err == nil && len(c.HardwareAddr) == 6 {
				return c, nil
			}
		}
		select {
		case <-ctx.Done():
			return net.Interface{}, errors.New("finding a network card: there is none")
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// renew asks again for the same address at half time. A lost lease is not an error of
// ours: if the network is gone the guest's own lease runs out and it stops.
func renew(ctx context.Context, card net.Interface, offer Offer) {
	for {
		wait := max(offer.Lease/2, time.Minute)
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		if again, err := negotiate(ctx, card, offer.Address.Addr()); err == nil {
			if again.Address == offer.Address || apply(card, again) == nil {
				offer = again
			}
		}
	}
}

func control(fn func(fd int) error) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return fn(fd)
}

func up(name string) error {
	err := control(func(fd int) error {
		req, err := unix.NewIfreq(name)
		if err != nil {
			return err
		}
		req.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
		return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req)
	})
	if err != nil {
		return fmt.Errorf("bringing %s up: %w", name, err)
	}
	return nil
}

// apply sets address, routes, MTU and name servers.
func apply(card net.Interface, o Offer) error {
	err := control(func(fd int) error {
		for _, set := range []struct {
			request uint
			addr    netip.Addr
		}{{unix.SIOCSIFADDR, o.Address.Addr()}, {unix.SIOCSIFNETMASK, maskOf(o.Address)}} {
			req, err := unix.NewIfreq(card.Name)
			if err != nil {
				return err
			}
			b := set.addr.As4()
			if err := req.SetInet4Addr(b[:]); err != nil {
				return err
			}
			if err := unix.IoctlIfreq(fd, set.request, req); err != nil {
				return err
			}
		}
		if o.MTU == 0 {
			return nil
		}
		req, err := unix.NewIfreq(card.Name)
		if err != nil {
			return err
		}
		req.SetUint32(uint32(o.MTU))
		return unix.IoctlIfreq(fd, unix.SIOCSIFMTU, req)
	})
	if err != nil {
		return fmt.Errorf("setting the address of %s: %w", card.Name, err)
	}
	for _, r := range o.Routes {
		if err := addRoute(card, r); err != nil {
			return fmt.Errorf("adding the route to %s: %w", r.To, err)
		}
	}
	var text strings.Builder
	for _, s := range o.Servers {
		fmt.Fprintf(&text, "nameserver %s\n", s)
	}
	if err := os.WriteFile("/etc/resolv.conf", []byte(text.String()), 0o600); err != nil {
		return fmt.Errorf("naming the name servers: %w", err)
	}
	return nil
}

func maskOf(p netip.Prefix) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], ^uint32(0)<<(32-p.Bits()))
	return netip.AddrFrom4(b)
}

// addRoute sends one RTM_NEWROUTE; a route that is there already is a success.
func addRoute(card net.Interface, r Route) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	ne := binary.NativeEndian
	attr := func(b []byte, kind uint16, value []byte) []byte {
		b = ne.AppendUint16(b, uint16(4+len(value)))
		b = ne.AppendUint16(b, kind)
		return append(b, value...) // all our values are 4 bytes: no padding
	}
	scope, via := byte(unix.RT_SCOPE_UNIVERSE), r.Via.As4()
	if r.Via.IsUnspecified() {
		scope = unix.RT_SCOPE_LINK
	}
	body := []byte{unix.AF_INET, byte(r.To.Bits()), 0, 0, unix.RT_TABLE_MAIN, unix.RTPROT_BOOT, scope, unix.RTN_UNICAST, 0, 0, 0, 0}
	if r.To.Bits() > 0 {
		to := r.To.Addr().As4()
		body = attr(body, unix.RTA_DST, to[:])
	}
	if scope == unix.RT_SCOPE_UNIVERSE {
		body = attr(body, unix.RTA_GATEWAY, via[:])
	}
	body = attr(body, unix.RTA_OIF, ne.AppendUint32(nil, uint32(card.Index)))
	msg := ne.AppendUint32(nil, uint32(unix.NLMSG_HDRLEN+len(body)))
	msg = ne.AppendUint16(msg, unix.RTM_NEWROUTE)
	msg = ne.AppendUint16(msg, unix.NLM_F_REQUEST|unix.NLM_F_ACK|unix.NLM_F_CREATE)
	msg = ne.AppendUint32(msg, 1) // sequence number
	msg = ne.AppendUint32(msg, 0) // port: the kernel's
	if err := unix.Sendto(fd, append(msg, body...), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	buf := make([]byte, 4096)
	n, _, err := unix.Recvfrom(fd, buf, 0)
	if err != nil {
		return err
	}
	if n < unix.NLMSG_HDRLEN+4 || ne.Uint16(buf[4:]) != unix.NLMSG_ERROR {
		return errors.New("the kernel answered something else than an acknowledgement")
	}
	if code := int32(ne.Uint32(buf[unix.NLMSG_HDRLEN:])); code != 0 && syscall.Errno(-code) != unix.EEXIST {
		return syscall.Errno(-code)
	}
	return nil
}

package kbs

import (
	"encoding/binary"
	"errors"
	"math"
)

// snpReportSize is that of ATTESTATION_REPORT (AMD 56860, SNP ABI, section 7.3).
const snpReportSize = 1184

// Processor families of CPUID, by which the layout of a TCB is chosen.
const (
	familyZen3and4 = 0x19 // Milan, Genoa, Bergamo, Siena
	familyZen5     = 0x1a // Turin
)

// tcb is a TCB_VERSION before its layout is known.
type tcb struct {
	fmc                             *uint8
	bootloader, tee, snp, microcode uint8
}

// snpReport rebuilds the report that the chip signed out of its members. Offsets
// are those of AMD 56860, section 7.3, table ATTESTATION_REPORT. Bytes that the
// form has no member for are reserved, and zero in versions 2 to 5; where a later
// version gives them a meaning, the signature will not hold.
func (r *reader) snpReport() (report []byte, unknown int, err error) {
	b := make([]byte, snpReportSize)
	var current, reported, committed, launch tcb
	var family, model, stepping *uint8
	optional := func(name string, f func() error) member { return member{name: name, optional: true, read: f} }

	unknown, err = r.members(false, []member{
		r.u32("version", b[0x000:]),
		r.u32("guest_svn", b[0x004:]),
		r.u64("policy", b[0x008:]),
		r.bytes("family_id", b[0x010:0x020]),
		r.bytes("image_id", b[0x020:0x030]),
		r.u32("vmpl", b[0x030:]),
		r.u32("sig_algo", b[0x034:]),
		r.tcb("current_tcb", &current),
		r.u64("plat_info", b[0x040:]),
		r.u32("key_info", b[0x048:]),
		r.bytes("report_data", b[0x050:0x090]),
		r.bytes("measurement", b[0x090:0x0c0]),
		r.bytes("host_data", b[0x0c0:0x0e0]),
		r.bytes("id_key_digest", b[0x0e0:0x110]),
		r.bytes("author_key_digest", b[0x110:0x140]),
		r.bytes("report_id", b[0x140:0x160]),
		r.bytes("report_id_ma", b[0x160:0x180]),
		r.tcb("reported_tcb", &reported),
		optional("cpuid_fam_id", func() error { return r.u8(&family) }),
		optional("cpuid_mod_id", func() error { return r.u8(&model) }),
		optional("cpuid_step", func() error { return r.u8(&stepping) }),
		r.bytes("chip_id", b[0x1a0:0x1e0]),
		r.tcb("committed_tcb", &committed),
		r.build("current", b[0x1e8:]),
		r.build("committed", b[0x1ec:]),
		r.tcb("launch_tcb", &launch),
		optional("launch_mit_vector", r.u64("", b[0x1f8:]).read),
		optional("current_mit_vector", r.u64("", b[0x200:]).read),
		r.signature("signature", b[0x2a0:]),
	})
	if err != nil {
		return nil, 0, err
	}

	version := binary.LittleEndian.Uint32(b)
	switch {
	case version < 3 && (family != nil || model != nil || stepping != nil):
		return nil, 0, errors.New("a processor is named in a report too old to name one")
	case version >= 3 && (family == nil || model == nil || stepping == nil):
		return nil, 0, errors.New("no processor is named in a report that names one")
	case version < 5 && (binary.LittleEndian.Uint64(b[0x1f8:]) != 0 || binary.LittleEndian.Uint64(b[0x200:]) != 0):
		return nil, 0, errors.New("mitigation vectors in a report too old to have them")
	}
	if family != nil {
		b[0x188], b[0x189], b[0x18a] = *family, *model, *stepping
	}
	for at, t := range map[int]tcb{0x038: current, 0x180: reported, 0x1e0: committed, 0x1f0: launch} {
		if err := t.put(b[at:at+8], family); err != nil {
			return nil, 0, err
		}
	}
	return b, unknown, nil
}

// put lays a TCB out as its processor does (AMD 57230, VCEK specification,
// section 2.1, and AMD 56860, table TCB_VERSION): Turin puts the level of its
// flexible micro-controller first. No family means version 2, Milan or Genoa.
func (t tcb) put(dst []byte, family *uint8) error {
	switch {
	case family == nil || *family == familyZen3and4:
		if t.fmc != nil {
			return errors.New("an FMC level on a processor without FMC")
		}
		copy(dst, []byte{t.bootloader, t.tee, 0, 0, 0, 0, t.snp, t.microcode})
	case *family == familyZen5:
		if t.fmc == nil {
			return errors.New("no FMC level on a processor with FMC")
		}
		copy(dst, []byte{*t.fmc, t.bootloader, t.tee, t.snp, 0, 0, 0, t.microcode})
	default:
		return errors.New("the TCB layout of this processor family is not known")
	}
	return nil
}

func (r *reader) u8(dst **uint8) error {
	v, err := r.uint(math.MaxUint8)
	b := uint8(v)
	*dst = &b
	return err
}

func (r *reader) u32(name string, dst []byte) member {
	return member{name: name, read: func() error {
		v, err := r.uint(math.MaxUint32)
		binary.LittleEndian.PutUint32(dst, uint32(v))
		return err
	}}
}

func (r *reader) u64(name string, dst []byte) member {
	return member{name: name, read: func() error {
		v, err := r.uint(math.MaxUint64)
		binary.LittleEndian.PutUint64(dst, v)
		return err
	}}
}

func (r *reader) bytes(name string, dst []byte) member {
	return member{name: name, read: func() error { return r.fill(dst) }}
}

// octet is a required byte.
func (r *reader) octet(name string, dst *uint8) member {
	return member{name: name, read: func() error {
		v, err := r.uint(math.MaxUint8)
		*dst = uint8(v)
		return err
	}}
}

func (r *reader) tcb(name string, dst *tcb) member {
	return member{name: name, read: func() error {
		_, err := r.members(false, []member{
			{name: "fmc", optional: true, read: func() error { return r.u8(&dst.fmc) }},
			r.octet("bootloader", &dst.bootloader),
			r.octet("tee", &dst.tee),
			r.octet("snp", &dst.snp),
			r.octet("microcode", &dst.microcode),
		})
		return err
	}}
}

func (r *reader) build(name string, dst []byte) member {
	return member{name: name, read: func() error {
		_, err := r.members(false, []member{
			r.octet("build", &dst[0]), r.octet("minor", &dst[1]), r.octet("major", &dst[2]),
		})
		return err
	}}
}

// signature holds r and s, little-endian, 72 bytes each (AMD 56860, chapter 10).
func (r *reader) signature(name string, dst []byte) member {
	return member{name: name, read: func() error {
		_, err := r.members(false, []member{r.bytes("r", dst[:72]), r.bytes("s", dst[72:144])})
		return err
	}}
}

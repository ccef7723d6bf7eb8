package permit

import (
	"context"
	"encoding/hex"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"

	"github.com/eosc-siesta/siestad/internal/attest"
)

// Site is what the configuration names at one site, and so what a freeze can name there.
type Site struct {
	Name  string
	Hosts []string
	Chips []string // ids of registered chips, in lower-case hex
}

var (
	issuerPattern = regexp.MustCompile(`^https?://[^|\s]+$`)
	hostPattern   = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{1,62}/[A-Za-z0-9][A-Za-z0-9._-]{0,200}$`)
	keyPattern    = regexp.MustCompile(`^[0-9a-z]{26}/[1-9][0-9]{0,8}$`)
	fmspcPattern  = regexp.MustCompile(`^[0-9a-f]{12}$`)
)

// Subject says whether an issuer may call somebody so: with any other subject no token is accepted, and nobody can be frozen.
func Subject(s string) bool {
	return s != "" && len(s) <= 128 && strings.TrimSpace(s) == s && !strings.Contains(s, "|") &&
		!strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r == 0x7f || r == utf8.RuneError })
}

// Named returns a value as releases and leases have it: the very text that is compared. The error says what would be right.
func Named(kind FreezeKind, value string) (string, error) {
	if value == "" || len(value) > 300 || strings.TrimSpace(value) != value {
		return "", invalid("value must have 1 to 300 bytes and no space around it")
	}
	switch kind {
	case "project", "dataset", "image", "site": // known has them, or not
	case "person":
		if issuer, subject, _ := strings.Cut(value, "|"); !issuerPattern.MatchString(issuer) || !Subject(subject) {
			return "", invalid("a person is written as issuer|subject, such as https://login.example.org|ann, which is what the members of a project are")
		}
	case "chip":
		return chipID(value)
	case "host":
		if !hostPattern.MatchString(value) {
			return "", invalid("a host is written as site/name")
		}
	case "product":
		return product(value)
	case "key":
		if !keyPattern.MatchString(value) {
			return "", invalid("a key version is written as workspace/version, such as 01jabcdefghjkmnpqrstvwxyz0/1")
		}
	default:
		return "", invalid("kind %q is none of %v", kind, FreezeKinds)
	}
	return value, nil
}

// chipID fills up with zeros what is shorter than the field of the report, as the processor does.
func chipID(value string) (string, error) {
	id, err := hex.DecodeString(value)
	if err != nil || len(id) != 64 && len(id) != 16 && len(id) != 8 {
		return "", invalid("a chip id has 128 hexadecimal digits, as decisions show it; that of a Turin may be written with its first 16, an Intel platform's (PPID) with 32")
	}
	return attest.ChipKey(append(id, make([]byte, 64-len(id))...)), nil
}

// product knows the names under which evidence can be judged, and so the only ones that a lease has.
func product(value string) (string, error) {
	if slices.Contains(attest.ProductLines(), value) {
		return value, nil
	}
	if fmspc := strings.ToLower(value); fmspcPattern.MatchString(fmspc) {
		return fmspc, nil
	}
	return "", invalid("no evidence comes from a product line %q: choose %s (Genoa for Bergamo and Siena, too), or write the FMSPC of an Intel platform, 12 hexadecimal digits",
		value, strings.Join(attest.ProductLines(), ", "))
}

// exists asks for what is in the database. Nothing of it is ever deleted; only members come and go.
var exists = map[FreezeKind]string{
	"project": `SELECT EXISTS (SELECT FROM project WHERE id = $1)`,
	"dataset": `SELECT EXISTS (SELECT FROM dataset WHERE id = $1)`,
	"image":   `SELECT EXISTS (SELECT FROM image WHERE id = $1)`,
	"person":  `SELECT EXISTS (SELECT FROM project WHERE members @> ARRAY[$1])`,
	"key":     `SELECT EXISTS (SELECT FROM broker_key WHERE workspace = split_part($1, '/', 1) AND version = split_part($1, '/', 2)::integer)`,
}

// known refuses what nothing has for a name: whoever froze it would believe to have stopped something. A person of a
// configured issuer or a chip may be frozen before anybody here has seen it.
func (s *Service) known(ctx context.Context, tx pgx.Tx, f Freeze) error {
	kind, value := f.Kind, f.Value
	switch kind {
	case "person":
		issuer, _, _ := strings.Cut(value, "|")
		if len(s.issuers) == 0 || slices.Contains(s.issuers, issuer) {
			return nil
		}
		// Workspaces of an issuer's people outlive its place in the configuration.
		there, err := found(ctx, tx, kind, value)
		if err == nil && !there {
			err = invalid("no project has this member, and tokens of %q are not accepted; those of these issuers are: %s", issuer, strings.Join(s.issuers, ", "))
		}
		return err
	case "site":
		if !slices.ContainsFunc(s.sites, func(site Site) bool { return site.Name == value }) {
			return invalid("no site of this name is configured; these are: %s", listed(s.sites, func(site Site) []string { return []string{site.Name} }))
		}
	case "host":
		hosts := func(site Site) (names []string) {
			for _, host := range site.Hosts {
				names = append(names, site.Name+"/"+host)
			}
			return names
		}
		if !slices.ContainsFunc(s.sites, func(site Site) bool { return slices.Contains(hosts(site), value) }) {
			return invalid("no registered chip is in a host of this name, so %s the chip; these hosts have one: %s",
				map[bool]string{true: "quarantine", false: "freeze"}[f.Quarantine], listed(s.sites, hosts))
		}
	case "chip":
		return s.wholeChip(value)
	case "project", "dataset", "image", "key":
		there, err := found(ctx, tx, kind, value)
		if err != nil {
			return err
		}
		if !there {
			return invalid("there is no %s of this name; write its id as the lists show it", map[bool]string{true: "key version", false: string(kind)}[kind == "key"])
		}
	}
	return nil
}

func found(ctx context.Context, tx pgx.Tx, kind FreezeKind, value string) (there bool, err error) {
	if err := tx.QueryRow(ctx, exists[kind], value).Scan(&there); err != nil {
		return false, fmt.Errorf("looking for it: %w", err)
	}
	return there, nil
}

// wholeChip refuses the short form of an id where it is the beginning of a longer one: tables show the first digits of all.
func (s *Service) wholeChip(value string) error {
	const short = 16
	longer := false
	for _, site := range s.sites {
		if slices.Contains(site.Chips, value) {
			return nil
		}
		longer = longer || slices.ContainsFunc(site.Chips, func(chip string) bool { return strings.HasPrefix(chip, value[:short]) })
	}
	if longer && strings.Trim(value[2*short:], "0") == "" {
		return invalid("a registered chip has a longer id that begins with %s: write it whole", value[:short])
	}
	return nil
}

// listed names what would have been right, as far as a sentence has room for it.
func listed(sites []Site, names func(Site) []string) string {
	const room = 20
	var all []string
	for _, site := range sites {
		all = append(all, names(site)...)
	}
	if len(all) > room {
		return strings.Join(all[:room], ", ") + fmt.Sprintf(" and %d more", len(all)-room)
	}
	if len(all) == 0 {
		return "none"
	}
	return strings.Join(all, ", ")
}

package policy

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/eosc-siesta/siestad/internal/attest"
	"github.com/eosc-siesta/siestad/internal/keybroker"
)

// Narrow returns what asked becomes under the documents that are in force for the site and the project. It locks them, so
// that a guest is armed under what is in force when its arming commits.
func (s *Service) Narrow(ctx context.Context, tx pgx.Tx, site, project string, asked attest.Policy) (attest.Policy, error) {
	rows, err := tx.Query(ctx, `SELECT `+versionColumns+versionFrom+` WHERE v.state = 'active'
		AND ((v.scope_kind = 'site' AND v.scope = $1) OR (v.scope_kind = 'project' AND v.scope = $2)) ORDER BY v.scope_kind FOR SHARE OF v`, site, project)
	if err != nil {
		return attest.Policy{}, fmt.Errorf("reading the policies in force: %w", err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByName[Version])
	if err != nil {
		return attest.Policy{}, fmt.Errorf("reading the policies in force: %w", err)
	}
	for _, v := range list {
		document, err := attest.ParsePolicy(v.Body)
		if err != nil {
			return attest.Policy{}, fmt.Errorf("reading policy %s: %w", v.ID, err)
		}
		if asked, err = intersect(document, asked); err != nil {
			return attest.Policy{}, fmt.Errorf("%w: policy %s of %s %s: %w", keybroker.ErrDocuments, v.ID, v.ScopeKind, v.Scope, err)
		}
	}
	return asked, nil
}

// intersect admits what both admit. The document's empty lists and zero words say nothing. That the result is narrower
// than what was asked for is proved by package attest, not by the lines before.
func intersect(document, asked attest.Policy) (attest.Policy, error) {
	// A guest runs on one kind of hardware, where a project's document may speak of both. One that names the other kind alone
	// admits nothing here, as one that names other machines of this kind does.
	switch {
	case asked.TDX != nil && document.TDX == nil && speaksOfSNP(document):
		return attest.Policy{}, invalid("it speaks of SEV-SNP alone, and this site has TDX; a version with a part tdx would hold here, too")
	case asked.TDX == nil && document.TDX != nil && !speaksOfSNP(document):
		return attest.Policy{}, invalid("it speaks of TDX alone, and this site has SEV-SNP; a version that names products would hold here, too")
	case asked.TDX != nil:
		document = withoutSNP(document)
	}
	out := filled(document, asked)
	out.Products = both(out.Products, asked.Products, func(a, b string) bool { return a == b })
	out.Chips = both(out.Chips, asked.Chips, slices.Equal)
	out.Measurements = both(out.Measurements, asked.Measurements, slices.Equal)
	floors := map[string]attest.TCB{}
	for _, product := range out.Products {
		if floor, ok := asked.MinTCB[product]; ok { // what has no floor stays without one, and is refused
			floors[product] = higher(floor, out.MinTCB[product])
		}
	}
	out.MinTCB = floors
	switch {
	case out.Simulated != asked.Simulated:
		return attest.Policy{}, invalid("one of them is for simulated hardware and the other is not")
	case out.RequirePolicy != asked.RequirePolicy:
		return attest.Policy{}, invalid("they ask for different guest policy words")
	}
	if asked.Revocation == attest.RevocationRequired {
		out.Revocation = attest.RevocationRequired
	}
	out.TDX = intersectTDX(out.TDX, asked.TDX)
	if err := out.Narrows(asked); err != nil {
		return attest.Policy{}, fmt.Errorf("%w: %w", ErrWider, err)
	}
	return out, nil
}

// filled says with parent's words what a document says nothing about.
func filled(document, parent attest.Policy) attest.Policy {
	out := document
	out.ReportData = parent.ReportData
	if len(out.Products) == 0 {
		out.Products = parent.Products
	}
	if len(out.Chips) == 0 {
		out.Chips = parent.Chips
	}
	if len(out.Measurements) == 0 {
		out.Measurements = parent.Measurements
	}
	if out.RequirePolicy == 0 {
		out.RequirePolicy = parent.RequirePolicy
	}
	floors := map[string]attest.TCB{}
	for _, product := range out.Products {
		if floor, ok := out.MinTCB[product]; ok {
			floors[product] = floor
		} else if floor, ok := parent.MinTCB[product]; ok {
			floors[product] = floor
		}
	}
	out.MinTCB = floors
	out.RequireAliasCheck = out.RequireAliasCheck || parent.RequireAliasCheck
	out.RequireMitigations |= parent.RequireMitigations
	if out.VLEKProvider == "" {
		out.VLEKProvider = parent.VLEKProvider
	}
	rules, parents := platformRules(&out.Platform), platformRules(&parent.Platform)
	for i, rule := range rules {
		if *rule == attest.Any {
			*rule = *parents[i]
		}
	}
	out.TDX = filledTDX(document.TDX, parent.TDX)
	return out
}

func platformRules(p *attest.PlatformRules) []*attest.Rule {
	return []*attest.Rule{&p.SMT, &p.TSME, &p.ECC, &p.RAPLDisabled, &p.CiphertextHiding, &p.TIO}
}

// speaksOfSNP says whether a document asks for anything of SEV-SNP, and withoutSNP is what is left of it elsewhere.
func speaksOfSNP(p attest.Policy) bool {
	return len(p.Products)+len(p.Chips)+len(p.Measurements)+len(p.MinTCB) > 0 || p.RequirePolicy != 0 || p.RequireAliasCheck ||
		p.Platform != attest.PlatformRules{} || p.RequireMitigations != 0 || p.VLEKProvider != ""
}

func withoutSNP(p attest.Policy) attest.Policy {
	return attest.Policy{TDX: p.TDX, Simulated: p.Simulated, Revocation: p.Revocation}
}

// here is what a project's document says of a site: its part for that hardware, and of the machines that it names those of the
// site. It is false where the document is about other machines.
func here(document, site attest.Policy) (attest.Policy, bool) {
	if site.TDX == nil {
		out := document
		out.TDX = nil
		out.Products = both(document.Products, site.Products, func(a, b string) bool { return a == b })
		out.Chips = both(document.Chips, site.Chips, slices.Equal)
		return out, (speaksOfSNP(document) || document.TDX == nil) &&
			(len(document.Products) == 0 || len(out.Products) > 0) && (len(document.Chips) == 0 || len(out.Chips) > 0)
	}
	out := withoutSNP(document)
	if document.TDX == nil {
		return out, !speaksOfSNP(document)
	}
	tdx := *document.TDX
	tdx.Platforms = both(tdx.Platforms, site.TDX.Platforms, slices.Equal)
	out.TDX = &tdx
	return out, len(document.TDX.Platforms) == 0 || len(tdx.Platforms) > 0
}

// admissible refuses a document that admits what its site's configuration does not. A project's is held against every site
// that has hardware of which it speaks; for each kind there must be one.
func (s *Service) admissible(ctx context.Context, tx pgx.Tx, scope Scope, document attest.Policy) error {
	if scope.Kind == "site" {
		parent, ok := s.Sites[scope.Name]
		if !ok {
			return invalid("its site is not configured; these are: %s", s.siteNames())
		}
		return within(scope.Name, document, parent)
	}
	var exists bool
	if err := tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM project WHERE id = $1)`, scope.Name).Scan(&exists); err != nil {
		return fmt.Errorf("looking for the project: %w", err)
	}
	if !exists {
		return invalid("there is no project of this name; write its id as the lists show it")
	}
	var snp, tdx bool
	for name, parent := range s.Sites {
		if parent.Simulated != document.Simulated {
			continue
		}
		part, met := here(document, parent)
		if !met {
			continue
		}
		snp, tdx = snp || parent.TDX == nil, tdx || parent.TDX != nil
		if err := within(name, part, parent); err != nil {
			return err
		}
	}
	switch {
	case document.TDX != nil && !tdx:
		return invalid("no configured site has TDX hardware that it admits")
	case speaksOfSNP(document) && !snp, !snp && !tdx:
		return invalid("no configured site has hardware that it admits")
	}
	return nil
}

// siteNames lists the configured sites, as far as a sentence has room for them.
func (s *Service) siteNames() string {
	const room = 20
	names := slices.Sorted(maps.Keys(s.Sites))
	switch {
	case len(names) == 0:
		return "none"
	case len(names) > room:
		return strings.Join(names[:room], ", ") + fmt.Sprintf(" and %d more", len(names)-room)
	}
	return strings.Join(names, ", ")
}

// within holds a document against a site. A site has no measurements of its own; every workspace brings its own.
func within(site string, document, parent attest.Policy) error {
	if document.Simulated != parent.Simulated {
		return invalid("site %s and the document do not agree whether the hardware is simulated", site)
	}
	if document.TDX != nil && parent.TDX == nil {
		return fmt.Errorf("%w: site %s has no TDX hardware: leave the part tdx out", ErrWider, site)
	}
	if parent.TDX != nil && speaksOfSNP(document) {
		return fmt.Errorf("%w: site %s has no SEV-SNP hardware: say what is asked of it in the part tdx alone", ErrWider, site)
	}
	if t := document.TDX; t != nil && (t.CommandLine != "" || len(t.Initrds) > 0) {
		return invalid("command_line and initrds of TDX are a workspace's own, computed from its image: leave them empty")
	}
	out := filled(document, parent)
	if len(out.Measurements) == 0 {
		out.Measurements = [][]byte{make([]byte, 48)}
	}
	parent.Measurements = out.Measurements
	parent.TDX = withMeasurements(parent.TDX, out.TDX)
	if err := out.Narrows(parent); err != nil {
		return fmt.Errorf("%w (site %s): %w", ErrWider, site, err)
	}
	return nil
}

func both[T any](a, b []T, equal func(x, y T) bool) []T {
	out := []T{}
	for _, x := range a {
		if slices.ContainsFunc(b, func(y T) bool { return equal(x, y) }) {
			out = append(out, x)
		}
	}
	return out
}

func higher(a, b attest.TCB) attest.TCB {
	return attest.TCB{
		FMC: max(a.FMC, b.FMC), Bootloader: max(a.Bootloader, b.Bootloader), TEE: max(a.TEE, b.TEE),
		SNP: max(a.SNP, b.SNP), Microcode: max(a.Microcode, b.Microcode),
	}
}

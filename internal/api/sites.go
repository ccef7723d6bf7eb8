package api

import (
	"context"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/eosc-siesta/siestad/internal/api/gen"
	"github.com/eosc-siesta/siestad/internal/authz"
	"github.com/eosc-siesta/siestad/internal/openstack"
)

const (
	preflightEvery   = 15 * time.Minute
	preflightTimeout = 25 * time.Second
)

// Site is a cloud as the API shows it.
type Site struct {
	Name, TEE string
	Flavors   []string
	Preflight func(ctx context.Context) (openstack.Report, error)
	Capacity  func(ctx context.Context) (openstack.Capacity, error)
}

// siteState is a site with what its last preflight found.
type siteState struct {
	Site

	mu   sync.Mutex
	last *gen.Preflight
}

func (h *handlers) ListSites(ctx context.Context, _ gen.ListSitesRequestObject) (gen.ListSitesResponseObject, error) {
	if err := h.allow(ctx, "site.list", "", authz.Object{Kind: "sites"}, ""); err != nil {
		return nil, err
	}
	list := gen.SiteList{Items: make([]gen.Site, len(h.sites))}
	for i, site := range h.sites {
		list.Items[i] = site.view()
	}
	return gen.ListSites200JSONResponse(list), nil
}

func (h *handlers) GetSite(ctx context.Context, r gen.GetSiteRequestObject) (gen.GetSiteResponseObject, error) {
	site, err := h.site(ctx, "site.get", r.Site)
	if err != nil {
		return nil, err
	}
	view := site.view()
	capacity, err := site.Capacity(ctx)
	if err != nil {
		// Its health says what is wrong; that its capacity is unknown does not make the rest untrue.
		h.cfg.Logger.Warn("a site's capacity could not be read", zap.String("site", site.Name), zap.Error(err))
		return gen.GetSite200JSONResponse(view), nil
	}
	quotas := []gen.Quota{}
	for _, q := range []struct {
		name string
		openstack.Usage
	}{
		{"servers", capacity.Servers},
		{"vcpus", capacity.VCPUs},
		{"ram_mib", capacity.RAMMiB},
		{"volumes", capacity.Volumes},
		{"volume_gib", capacity.VolumeGiB},
	} {
		quotas = append(quotas, gen.Quota{Name: q.name, Used: int64(q.Used), Limit: int64(q.Max)})
	}
	view.Capacity = &quotas
	return gen.GetSite200JSONResponse(view), nil
}

func (h *handlers) PreflightSite(ctx context.Context, r gen.PreflightSiteRequestObject) (gen.PreflightSiteResponseObject, error) {
	site, err := h.site(ctx, "site.preflight", r.Site)
	if err != nil {
		return nil, err
	}
	return gen.PreflightSite200JSONResponse(h.preflight(ctx, site)), nil
}

func (s *Server) site(ctx context.Context, op authz.Operation, name string) (*siteState, error) {
	for _, site := range s.sites {
		if site.Name == name {
			return site, s.allow(ctx, op, "site.get", authz.Object{Kind: "site", ID: name}, "")
		}
	}
	return nil, s.missing(ctx, op, "site", name)
}

// preflight looks at the site now and remembers what it found. One that could not be carried out is a failed check.
func (s *Server) preflight(ctx context.Context, site *siteState) gen.Preflight {
	ctx, cancel := context.WithTimeout(ctx, preflightTimeout)
	defer cancel()
	report, err := site.Preflight(ctx)
	if err != nil {
		s.cfg.Logger.Warn("a preflight could not be carried out", zap.String("site", site.Name), zap.Error(err))
		report.Checks = append(report.Checks, openstack.PreflightCheck{
			Name: "reachable", Detail: "the preflight could not be carried out (" + string(openstack.KindOf(err)) + ")",
			Fix: "look at the service's log, then at the site's status",
		})
	}
	view := gen.Preflight{At: s.cfg.Now().UTC(), Ok: len(report.Checks) > 0}
	view.Checks = make([]struct {
		Detail string  `json:"detail"`
		Fix    *string `json:"fix,omitempty"`
		Name   string  `json:"name"`
		Ok     bool    `json:"ok"`
	}, len(report.Checks))
	for i, c := range report.Checks {
		view.Ok = view.Ok && c.OK
		view.Checks[i].Name, view.Checks[i].Ok, view.Checks[i].Detail, view.Checks[i].Fix = c.Name, c.OK, c.Detail, optional(c.Fix)
	}
	site.mu.Lock()
	defer site.mu.Unlock()
	site.last = &view
	return view
}

func (site *siteState) view() gen.Site {
	site.mu.Lock()
	defer site.mu.Unlock()
	v := gen.Site{Name: site.Name, Tee: site.TEE, Flavors: site.Flavors, Health: "unknown", Preflight: site.last}
	if site.last != nil {
		v.Health = "failing"
		if site.last.Ok {
			v.Health = "ok"
		}
	}
	return v
}

// watchSites runs every site's preflight at start and from time to time, each on its own so that one that hangs delays
// no other.
func (s *Server) watchSites(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, site := range s.sites {
		wg.Go(func() {
			for {
				found := s.preflight(ctx, site)
				for _, c := range found.Checks {
					if !c.Ok && ctx.Err() == nil {
						s.cfg.Logger.Warn("preflight", zap.String("site", site.Name), zap.String("check", c.Name),
							zap.String("detail", c.Detail), zap.Stringp("fix", c.Fix))
					}
				}
				if !tick(ctx, preflightEvery) {
					return
				}
			}
		})
	}
}

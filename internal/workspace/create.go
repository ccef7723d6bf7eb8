package workspace

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/eosc-siesta/siestad/internal/attest"
	"github.com/eosc-siesta/siestad/internal/flow"
	"github.com/eosc-siesta/siestad/internal/image"
	"github.com/eosc-siesta/siestad/internal/keybroker"
	"github.com/eosc-siesta/siestad/internal/openstack"
)

// createFlow makes a workspace. Keys come before compute, so that a guest never waits for Barbican; the port before the
// server, for it is the server's mutex; and the broker is armed last, so that what could boot in a guest's place has the
// shortest time to try.
func (s *Service) createFlow() flow.Flow[run] {
	t := s.cfg.Times
	return flow.Flow[run]{Kind: kindCreate, Record: s.record(kindCreate), Failed: createFailed, Parked: createParked, Steps: append([]flow.Step[run]{
		{Name: "resolve", Do: s.on(s.resolve), Deadline: 5 * time.Minute},
		// An image that is just being removed is waited for, until that is given up.
		{Name: "images", Do: s.on(s.ensureImages), Undo: s.on(s.releaseImages), Deadline: s.patience() + 30*time.Minute, Attempt: 10 * time.Minute},
		{Name: "key", Do: s.on(s.prepareKey), Commit: s.found(roleKey, secretID), Undo: s.on(s.undoKey), UndoCommit: s.gone(roleKey), Deadline: 5 * time.Minute},
		{Name: "security-group", Do: s.on(s.ensureGroup), Commit: s.found(roleGroup, groupID), Undo: s.on(s.removeGroup), UndoCommit: s.gone(roleGroup), Deadline: 5 * time.Minute},
		{Name: "port", Do: s.on(s.ensurePort), Commit: s.found(rolePort, portID), Undo: s.on(s.removePort), UndoCommit: s.gone(rolePort), Deadline: 5 * time.Minute},
		{Name: "data-volume", Do: s.on(s.ensureData), Commit: s.found(roleData, dataID), Undo: s.on(s.undoData), UndoCommit: s.gone(roleData), Deadline: during(t.Volume, 10*time.Minute)},
		{Name: "root-volume", Do: s.on(s.ensureRoot), Commit: s.found(roleRoot, rootID), Undo: s.on(s.undoRoot), UndoCommit: s.gone(roleRoot), Deadline: during(t.Volume, 10*time.Minute)},
		{Name: "bind", Do: s.on(s.bind), Commit: s.arm, UndoCommit: s.disarm, Deadline: 5 * time.Minute},
		{Name: "server", Do: s.on(s.ensureServer), Commit: s.found(roleServer, serverID), Undo: s.on(s.undoServer), UndoCommit: s.gone(roleServer), Deadline: during(t.Boot, 15*time.Minute)},
	}, s.bootSteps(Creating)...)}
}

// resolve turns names into ids and reads back what the site really offers, before anything is made.
func (s *Service) resolve(ctx context.Context, site *Site, r *run) error {
	flavor, err := site.Client.Flavor(ctx, r.Flavor)
	if absent(err) {
		return flow.Fatal(wrap(codeConfig, "the operator of "+site.Name+" creates the flavor or takes it out of the configuration", err))
	}
	if err != nil {
		return forward(site, err)
	}
	if !encrypted(site.TEE, flavor.ExtraSpecs) {
		return flow.Fatal(problem(codeConfig, "the operator of "+site.Name+" sets hw:mem_encryption and hw:mem_encryption_model="+site.TEE.model()+" on the flavor, on a Nova that knows them",
			"flavor %s at %s does not ask for memory encrypted by %s", r.Flavor, site.Name, site.TEE.model()))
	}
	network, err := site.Client.Network(ctx, site.Network)
	if absent(err) {
		return flow.Fatal(wrap(codeConfig, "the operator of "+site.Name+" creates the network or corrects the configuration", err))
	}
	if err != nil {
		return forward(site, err)
	}
	if _, err := s.image(ctx, r); err != nil {
		return err
	}
	r.FlavorID, r.VCPUs, r.MemoryMiB, r.NetworkID = flavor.ID, flavor.VCPUs, flavor.RAMMiB, network.ID
	return nil
}

func (s *Service) image(ctx context.Context, r *run) (image.Image, error) {
	img, err := s.cfg.Images.Image(ctx, r.Image)
	if errors.Is(err, image.ErrNotFound) {
		return img, flow.Fatal(wrap(codeImage, "choose another image", err))
	}
	if err != nil {
		return img, err
	}
	if img.State != image.Approved {
		return img, flow.Fatal(problem(codeImage, "a custodian approves the image, or choose another", "image %s is %s", r.Image, img.State))
	}
	return img, nil
}

func (s *Service) prepareKey(ctx context.Context, site *Site, r *run) (err error) {
	r.SecretID, err = s.cfg.Broker.Prepare(ctx, keybroker.Volume{
		Workspace: r.Workspace, Project: r.Project, Site: r.Site,
		SecretName: s.name(r.Workspace, roleKey, r.Generation),
	})
	return broken(site, err)
}

// undoKey destroys a key under which nothing was ever written. A disk that the guest has formatted keeps its key: only
// Delete takes data away.
func (s *Service) undoKey(ctx context.Context, _ *Site, r *run) error {
	var err error
	if r.Kept, err = s.formatted(ctx, r.Workspace); r.Kept || err != nil {
		return err
	}
	return s.shred(ctx, r.Workspace)
}

func (s *Service) shred(ctx context.Context, workspace string) error {
	if err := s.cfg.Broker.Shred(ctx, workspace); err != nil && !errors.Is(err, keybroker.ErrNotFound) {
		return err
	}
	return nil
}

// formatted says whether a guest has reported a header for the data volume: from then on there may be data on it.
func (s *Service) formatted(ctx context.Context, workspace string) (bool, error) {
	state, err := s.cfg.Broker.State(ctx, workspace)
	if errors.Is(err, keybroker.ErrNotFound) {
		return false, nil
	}
	return state.HeaderRecorded, err
}

func (s *Service) ensureGroup(ctx context.Context, site *Site, r *run) error {
	g, err := site.Client.EnsureSecurityGroup(ctx, openstack.SecurityGroupSpec{
		Name:        s.name(r.Workspace, roleGroup, r.Generation),
		Description: "siestad workspace " + r.Workspace, Rules: site.Rules,
	})
	r.GroupID = g.ID
	return forward(site, err)
}

func (s *Service) ensurePort(ctx context.Context, site *Site, r *run) error {
	p, err := site.Client.EnsurePort(ctx, openstack.PortSpec{
		Name: s.name(r.Workspace, rolePort, r.Generation), NetworkID: r.NetworkID,
		MAC: s.mac(r.Workspace, r.Generation), SecurityGroupID: r.GroupID,
	})
	r.PortID = p.ID
	return forward(site, err)
}

func (s *Service) ensureData(ctx context.Context, site *Site, r *run) error {
	return s.ensureVolume(ctx, site, r, roleData, r.DataGiB, &r.DataID)
}

// ensureRoot makes the blank volume that carries the boot properties: the guest is its initrd alone.
func (s *Service) ensureRoot(ctx context.Context, site *Site, r *run) error {
	return s.ensureVolume(ctx, site, r, roleRoot, 1, &r.RootID)
}

func (s *Service) ensureVolume(ctx context.Context, site *Site, r *run, role string, size int, id *string) error {
	v, err := site.Client.EnsureVolume(ctx, openstack.VolumeSpec{
		Name: s.name(r.Workspace, role, r.Generation), SizeGiB: size,
		Type: site.VolumeType, Metadata: s.markers(r.Workspace, role, r.Generation),
	})
	if err == nil {
		*id = v.ID
		err = v.Err()
	}
	switch {
	case openstack.KindOf(err) == openstack.Permanent && v.ID != "":
		return flow.Fatal(wrap(codeCloud, "the operator of "+site.Name+" looks why Cinder could not make the volume; then create the workspace again", err))
	case err != nil:
		return forward(site, err)
	case v.Status != "available" && v.Status != "in-use":
		return flow.Again(pollCloud, fmt.Sprintf("the %s volume is %s", role, v.Status))
	}
	return nil
}

func (s *Service) undoData(ctx context.Context, site *Site, r *run) error {
	var err error
	if r.Kept, err = s.formatted(ctx, r.Workspace); r.Kept || err != nil {
		return err
	}
	return s.removeVolume(ctx, site, r, roleData, &r.DataID)
}

func (s *Service) undoRoot(ctx context.Context, site *Site, r *run) error {
	return s.removeVolume(ctx, site, r, roleRoot, &r.RootID)
}

// bind writes the measured line into the volume that the guest boots from, and computes what this very line must measure.
func (s *Service) bind(ctx context.Context, site *Site, r *run) error {
	line, err := s.line(site, r.Workspace, r.Generation)
	if err != nil {
		return flow.Fatal(wrap(codeConfig, "an operator configures a shorter broker URL", err))
	}
	img, err := s.image(ctx, r)
	if err != nil {
		return err
	}
	if err := s.measure(ctx, site, img, line, r); err != nil {
		return err
	}
	r.Line = line
	return forward(site, site.Client.SetBootMetadata(ctx, r.RootID, bootProperties(site.TEE, r.KernelID, r.InitrdID, line)))
}

// arm commits what the guest must measure, together with the broker's readiness to give it one key.
func (s *Service) arm(ctx context.Context, tx pgx.Tx, r *run) error {
	site, err := s.site(r)
	if err != nil {
		return err
	}
	if err := change(ctx, tx, "bind", named{"id": r.Workspace, "line": r.Line, "measurements": r.Measurements}); err != nil {
		return err
	}
	w, err := readOne(ctx, tx, r.Workspace)
	if err != nil {
		return err
	}
	policy, err := policyOf(site, r)
	if err != nil {
		return err
	}
	return broken(site, s.cfg.Broker.Arm(ctx, tx, keybroker.Arm{
		Workspace: r.Workspace, Project: r.Project, Dataset: w.Dataset, Owner: w.Owner,
		Image: r.Image, Site: r.Site, Generation: r.Generation, VolumeID: r.DataID, VolumeSerial: openstack.Volume{ID: r.DataID}.Serial(), Policy: policy,
	}))
}

// policyOf is the site's policy for this one guest.
func policyOf(site *Site, r *run) (attest.Policy, error) {
	policy := site.Policy
	if site.TEE.OnTDX() != (r.Domain != nil) {
		return policy, flow.Fatal(problem(codeConfig, "create the workspace again", "the TEE of site %s is another than when the guest was measured", site.Name))
	}
	if site.TEE.OnTDX() {
		tdx := *policy.TDX
		tdx.MRTDs, tdx.RTMRs[1] = [][]byte{r.Domain.MRTD}, attest.RTMRRule{Values: r.Domain.RTMR1}
		// RTMR2 holds line and initrd and nothing else. By its values alone the guest is bound already; the log, which the line
		// makes the policy ask for, says in a decision which of the two was another.
		tdx.RTMRs[2] = attest.RTMRRule{Values: r.Domain.RTMR2}
		tdx.CommandLine, tdx.Initrds = r.Line, [][]byte{r.Domain.Initrd}
		policy.TDX = &tdx
		return policy, nil
	}
	policy.Measurements = nil
	for _, m := range r.Measurements {
		raw, err := hex.DecodeString(m)
		if err != nil {
			return policy, fmt.Errorf("reading a measurement: %w", err)
		}
		policy.Measurements = append(policy.Measurements, raw)
	}
	return policy, nil
}

func (s *Service) disarm(ctx context.Context, tx pgx.Tx, r *run) error {
	if err := s.cfg.Broker.Disarm(ctx, tx, r.Workspace); err != nil {
		return err
	}
	return s.cfg.Broker.EndLease(ctx, tx, r.Workspace, "the workspace is unwound")
}

func (s *Service) ensureServer(ctx context.Context, site *Site, r *run) error {
	srv, err := site.Client.EnsureServer(ctx, openstack.ServerSpec{
		Name: s.name(r.Workspace, roleServer, r.Generation), FlavorID: r.FlavorID,
		PortID: r.PortID, RootVolumeID: r.RootID, DataVolumeID: r.DataID, Metadata: s.markers(r.Workspace, roleServer, r.Generation),
	})
	r.ServerID = srv.ID
	return forward(site, err)
}

// undoServer refuses releases before it takes the server away: a guest that has no future gets no key.
func (s *Service) undoServer(ctx context.Context, site *Site, r *run) error {
	if err := flow.InTx(ctx, func(ctx context.Context, tx pgx.Tx) error { return s.disarm(ctx, tx, r) }); err != nil {
		return err
	}
	return s.removeServer(ctx, site, r)
}

// The ids that steps find, for the resource rows.
func secretID(r *run) string { return r.SecretID }
func groupID(r *run) string  { return r.GroupID }
func portID(r *run) string   { return r.PortID }
func dataID(r *run) string   { return r.DataID }
func rootID(r *run) string   { return r.RootID }
func serverID(r *run) string { return r.ServerID }

// found records a resource with the step that made or found it.
func (s *Service) found(role string, id func(*run) string) func(context.Context, pgx.Tx, *run) error {
	return func(ctx context.Context, tx pgx.Tx, r *run) error {
		return change(ctx, tx, "found", named{
			"workspace": r.Workspace, "role": role, "generation": r.Generation,
			"name": s.name(r.Workspace, role, r.Generation), "ext_id": id(r),
		})
	}
}

// gone records that a resource has been taken away. A kept one keeps its row.
func (s *Service) gone(role string) func(context.Context, pgx.Tx, *run) error {
	return func(ctx context.Context, tx pgx.Tx, r *run) error {
		if r.Kept && (role == roleData || role == roleKey) {
			return nil
		}
		return anyRows(ctx, tx, "gone", named{"workspace": r.Workspace, "role": role})
	}
}

package attest

// The checks of SEV-SNP, in their order of precedence.
const (
	checkVersion check = iota + firstOwn
	checkReserved
	checkSignatureAlgorithm
	checkProduct
	checkKeyType
	checkLeaf
	checkChain
	checkRevoked
	checkRevocation
	checkSignature
	checkCertificateChip
	checkCertificateTCB
	checkProvider
	checkDebug
	checkMigration
	checkVMPL
	checkMeasurement
	checkReportData
	checkGuestPolicy
	checkIDBlock
	checkHostData
	checkProductAllowed
	checkHardware
	checkMaskedChip
	checkChip
	checkTCBLayout
	checkReportedTCB
	checkCommittedTCB
	checkLaunchTCB
	checkCurrentTCB
	checkAlias
	checkPlatform
	checkMitigations
	numSNPChecks
)

// Documents on which the rules rest. Sections are named rather than numbered where
// AMD renumbers them between revisions.
const (
	abiReport   = "AMD 56860 §7.3, ATTESTATION_REPORT"
	abiPolicy   = "AMD 56860 §4.3, guest policy"
	abiTCB      = "AMD 56860 §2.2, TCB_VERSION"
	abiPlatform = "AMD 56860 §7.3, PLATFORM_INFO"
	abiKeyInfo  = "AMD 56860 §7.3, ATTESTATION_REPORT key information"
	abiMeasure  = "AMD 56860, SNP_LAUNCH_UPDATE and SNP_LAUNCH_FINISH"
	kdsCert     = "AMD 57230 chapter 3, certificate extensions"
	kdsChain    = "AMD 57230 chapter 4, cert_chain"
	kdsCRL      = "AMD 57230 chapter 4, crl"
)

var snpTable = []Check{
	checkTime: {
		Name: "time of the verdict", Code: CodeCollateral, Source: fromCode,
		Advice: "give the time at which the evidence is to be judged",
	},
	checkTEE: {
		Name: "kind of evidence", Code: CodeFormat, Source: fromCode,
		Advice: "send evidence of SEV-SNP or TDX hardware; samples are never judged",
	},
	checkLayout: {
		Name: "report layout", Code: CodeFormat, Source: fromCode, Section: abiReport,
		Advice: "send the report as the firmware gave it, all 1184 bytes",
	},
	checkVersion: {
		Name: "report version", Code: CodeVersion, Source: fromCode, Section: abiReport,
		Advice: "versions 2, 3 and 5 can be judged; after a firmware update that brings another, update this program first",
	},
	checkReserved: {
		Name: "reserved fields", Code: CodeFormat, Source: fromCode, Section: abiReport,
		Advice: "the firmware sets a field that this program does not know; update this program before that firmware",
	},
	checkSignatureAlgorithm: {
		Name: "signature algorithm", Code: CodeFormat, Source: fromCode, Section: abiReport,
		Advice: "send the report as the firmware signed it",
	},
	checkProduct: {
		Name: "product line", Code: CodeProduct, Source: fromCode, Section: "AMD 57230 chapter 4, product_name",
		Advice: "Milan, Genoa, Bergamo, Siena and Turin can be judged; report other processors to the maintainers",
	},
	checkKeyType: {
		Name: "kind of signing key", Code: CodeKeyType, Source: fromCode, Section: abiKeyInfo,
		Advice: "have the host sign with the chip's own key (VCEK), or name the provider of its VLEK in the policy",
	},
	checkLeaf: {
		Name: "certificate of the chip", Code: CodeCollateral, Source: fromCollateral, Section: kdsCert,
		Advice: "register the chip, or import its certificate for the reported patch levels",
	},
	checkChain: {
		Name: "certificate chain", Code: CodeChain, Source: fromCollateral, Section: kdsChain,
		Advice: "fetch the chip's certificate from AMD again; if it is the same, treat the host as hostile",
	},
	checkRevoked: {
		Name: "certificates not revoked", Code: CodeRevoked, Source: fromCollateral, Section: kdsCRL,
		Advice: "AMD has withdrawn the key: take all machines of this product line out of service until they have new certificates",
	},
	checkRevocation: {
		Name: "revocation list", Code: CodeCollateral, Source: fromCollateral, Section: kdsCRL,
		Advice: "fetch or import AMD's current revocation list for this product line: under a VLEK the one of /vlek/v1, or else the one of /vcek/v1",
	},
	checkSignature: {
		Name: "report signature", Code: CodeSignature, Source: fromCertificate, Section: abiReport,
		Advice: "the report was changed on its way, or is another chip's: treat the host as hostile until it is explained",
	},
	checkCertificateChip: {
		Name: "certificate names this chip", Code: CodeChip, Source: fromCertificate, Section: kdsCert,
		Advice: "import the certificate of this chip",
	},
	checkCertificateTCB: {
		Name: "certificate names the reported TCB", Code: CodeTCB, Source: fromCertificate, Section: kdsCert,
		Advice: "import the chip's certificate for the reported patch levels; each firmware update needs a new one",
	},
	checkProvider: {
		Name: "provider of the signing key", Code: CodeKeyType, Source: fromPolicy, Section: kdsCert,
		Advice: "a VLEK speaks for its provider only: name that provider in the policy, or refuse its machines",
	},
	checkDebug: {
		Name: "debugging is off", Code: CodeDebug, Source: fromCode, Section: abiPolicy,
		Advice: "no policy admits a debug guest: start the server again without debugging",
	},
	checkMigration: {
		Name: "no migration agent", Code: CodeMigration, Source: fromCode, Section: abiPolicy,
		Advice: "no policy admits a migration agent: start the server again without one",
	},
	checkVMPL: {
		Name: "privilege level", Code: CodeVMPL, Source: fromCode, Section: abiReport,
		Advice: "the guest must ask for its report at VMPL 0",
	},
	checkMeasurement: {
		Name: "launch measurement", Code: CodeMeasurement, Source: fromPolicy, Section: abiMeasure,
		Advice: "compare firmware, kernel, initrd, command line, vCPU count and model with what the workspace was built for; rebuild it if they were changed on purpose",
	},
	checkReportData: {
		Name: "report data", Code: CodeReportData, Source: fromPolicy, Section: abiReport,
		Advice: "let the guest answer the challenge that it was given; a repeated answer is a replay",
	},
	checkGuestPolicy: {
		Name: "guest policy", Code: CodePolicy, Source: fromPolicy, Section: abiPolicy,
		Advice: "start the server with the guest policy that the attestation policy names",
	},
	checkIDBlock: {
		Name: "no identity block", Code: CodeIDBlock, Source: fromCode, Section: abiMeasure,
		Advice: "Nova gives no identity block: somebody else launched this guest",
	},
	checkHostData: {
		Name: "no host data", Code: CodeHostData, Source: fromCode, Section: abiMeasure,
		Advice: "Nova gives no host data: somebody else launched this guest",
	},
	checkProductAllowed: {
		Name: "product line allowed", Code: CodeProduct, Source: fromPolicy,
		Advice: "move the server to a product line of the policy, or widen the policy",
	},
	checkHardware: {
		Name: "genuine or simulated hardware", Code: CodeChain, Source: fromPolicy,
		Advice: "simulated guests are for demonstrations: use a policy for them, and none of it for data",
	},
	checkMaskedChip: {
		Name: "chip id is shown", Code: CodeChip, Source: fromCode, Section: abiReport,
		Advice: "clear MaskChipId on the host (SNP_CONFIG): without it nobody can tell which machine answers",
	},
	checkChip: {
		Name: "registered chip", Code: CodeChip, Source: fromPolicy, Section: abiReport,
		Advice: "register the machine if it is yours; if it is not, somebody else's machine answered",
	},
	checkTCBLayout: {
		Name: "reserved TCB bytes", Code: CodeTCB, Source: fromCode, Section: abiTCB,
		Advice: "the firmware sets a patch level that this program does not know; update this program before that firmware",
	},
	checkReportedTCB: {
		Name: "reported TCB", Code: CodeTCB, Source: fromPolicy, Section: abiTCB,
		Advice: "update the host's firmware to the floor, commit it, and start the server again",
	},
	checkCommittedTCB: {
		Name: "committed TCB", Code: CodeTCB, Source: fromPolicy, Section: abiTCB,
		Advice: "commit the host's firmware (SNP_COMMIT), so that it cannot go back below the floor",
	},
	checkLaunchTCB: {
		Name: "TCB at launch", Code: CodeTCB, Source: fromPolicy, Section: abiTCB,
		Advice: "the guest was launched on firmware below the floor: start the server again",
	},
	checkCurrentTCB: {
		Name: "committed TCB is not above the current", Code: CodeTCB, Source: fromCode, Section: abiTCB,
		Advice: "the machine contradicts itself: reload its firmware, and treat it as hostile if that does not help",
	},
	checkAlias: {
		Name: "memory alias check", Code: CodePlatform, Source: fromPolicy, Section: abiPlatform,
		Advice: "update the firmware to one that checks memory for aliases (AMD-SB-3015) and restart the host",
	},
	checkPlatform: {
		Name: "platform configuration", Code: CodePlatform, Source: fromPolicy, Section: abiPlatform,
		Advice: "change the host's BIOS settings to those of the policy",
	},
	checkMitigations: {
		Name: "firmware mitigations", Code: CodePlatform, Source: fromPolicy, Section: abiReport,
		Advice: "update the host's firmware to one that has the mitigations of the policy, and start the server again",
	},
}

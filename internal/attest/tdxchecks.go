package attest

// The checks of TDX, in their order of precedence: first whether anything genuine
// was judged, then what the guest is, then on what it runs.
const (
	tdxForm check = iota + firstOwn
	tdxKeyType
	tdxVendor
	tdxCertificate
	tdxChain
	tdxRevoked
	tdxRootList
	tdxPlatformList
	tdxQESignature
	tdxKeyBinding
	tdxSignature
	tdxHardware
	tdxSigner
	tdxInfo
	tdxInfoPlatform
	tdxQE
	tdxQESigner
	tdxQEProduct
	tdxQEMisc
	tdxQEAttributes
	tdxQELevel
	tdxSeamSigner
	tdxSeamAttributes
	tdxModule
	tdxLevel
	tdxModuleNow
	tdxLevelNow
	tdxTCBRevoked
	tdxDebug
	tdxMigratable
	tdxKnownAttributes
	tdxKnownFeatures
	tdxServiceTD
	tdxAdmitted
	tdxMRTD
	tdxReportData
	tdxFormAllowed
	tdxAttributes
	tdxFeatures
	tdxConfigID
	tdxOwner
	tdxOwnerConfig
	tdxEventLog
	tdxRTMR0
	tdxRTMR1
	tdxRTMR2
	tdxRTMR3
	tdxCommandLine
	tdxInitrd
	tdxRegistered
	tdxStatus
	tdxEvaluation
	numTDXChecks
)

// Documents on which the rules rest. Sections are named rather than numbered where
// Intel renumbers them between revisions.
const (
	dcapQuote    = "Intel TDX DCAP Quoting Library API, appendix A.3, TD quote"
	dcapBody     = "Intel TDX DCAP Quoting Library API, appendix A.3, TD quote body"
	dcapQE       = "Intel TDX DCAP Quoting Library API, appendix A.4, QE report certification data"
	pckProfile   = "Intel SGX PCK Certificate and CRL Profile Specification, certificate hierarchy"
	pckCRLs      = "Intel SGX PCK Certificate and CRL Profile Specification, CRL profiles"
	pcsTCBInfo   = "Intel PCS API v4, Get TDX TCB Info"
	pcsQE        = "Intel PCS API v4, Get TDX QE Identity"
	qvlLevel     = "Intel QVL, TcbLevelCheck; " + pcsTCBInfo
	qvlModule    = "Intel QVL, TdxModuleCheck; " + pcsTCBInfo
	qvlRelaunch  = "Intel QVL, TcbLevelCheck and TDRelaunchCheck"
	moduleAttr   = "Intel TDX Module ABI (348551), ATTRIBUTES"
	moduleXFAM   = "Intel TDX Module ABI (348551), XFAM"
	moduleReport = "Intel TDX Module ABI (348551), TDINFO"
	ghciRTMR     = "Intel TDX Virtual Firmware Design Guide (344991), RTMR usage; TCG PC Client Platform Firmware Profile, event log"
	stubMeasure  = "UEFI 2.10 §38, EFI_CC_MEASUREMENT_PROTOCOL; Linux EFI stub, tagged events"

	updateHost = "update microcode, BIOS and TDX module of the host to Intel's current level, and start the server again"
)

var tdxTable = []Check{
	checkTime: {
		Name: "time of the verdict", Code: CodeCollateral, Source: fromCode,
		Advice: "give the time at which the evidence is to be judged",
	},
	checkTEE: {
		Name: "kind of evidence", Code: CodeFormat, Source: fromCode,
		Advice: "send evidence of SEV-SNP or TDX hardware; samples are never judged",
	},
	checkLayout: {
		Name: "quote layout", Code: CodeFormat, Source: fromCode, Section: dcapQuote,
		Advice: "send the quote as the quoting enclave gave it",
	},
	tdxForm: {
		Name: "quote version and body type", Code: CodeVersion, Source: fromCode, Section: dcapQuote,
		Advice: "quotes of version 4, and of version 5 with body types 2 and 3, can be judged; update this program before the host's quoting service",
	},
	tdxKeyType: {
		Name: "kind of key and of TEE", Code: CodeKeyType, Source: fromCode, Section: dcapQuote,
		Advice: "have the host quote a TD with an ECDSA P-256 attestation key",
	},
	tdxVendor: {
		Name: "vendor of the quoting enclave", Code: CodeQE, Source: fromCode, Section: dcapQuote,
		Advice: "use Intel's quoting enclave on the host",
	},
	tdxCertificate: {
		Name: "certificate of the platform", Code: CodeCollateral, Source: fromCode, Section: pckProfile,
		Advice: "register the host with Intel, so that its quoting enclave has the PCK certificate chain",
	},
	tdxChain: {
		Name: "certificate chain", Code: CodeChain, Source: fromCertificate, Section: pckProfile,
		Advice: "fetch the platform's PCK certificate again; if it is the same, treat the host as hostile",
	},
	tdxRevoked: {
		Name: "certificates not revoked", Code: CodeRevoked, Source: fromCollateral, Section: pckCRLs,
		Advice: "Intel has withdrawn a key: take the host out of service until it has a new certificate",
	},
	tdxRootList: {
		Name: "revocation list of the root", Code: CodeCollateral, Source: fromCollateral, Section: pckCRLs,
		Advice: "fetch or import the current revocation list of Intel's SGX root",
	},
	tdxPlatformList: {
		Name: "revocation list of the platform CA", Code: CodeCollateral, Source: fromCollateral, Section: pckCRLs,
		Advice: "fetch or import Intel's current PCK revocation list for this platform's CA",
	},
	tdxQESignature: {
		Name: "signature of the quoting enclave's report", Code: CodeSignature, Source: fromCertificate, Section: dcapQE,
		Advice: "the quote was changed on its way, or its certificate is another host's: treat the host as hostile until it is explained",
	},
	tdxKeyBinding: {
		Name: "attestation key of the quoting enclave", Code: CodeSignature, Source: fromCertificate, Section: dcapQE,
		Advice: "the attestation key is not the quoting enclave's: treat the host as hostile",
	},
	tdxSignature: {
		Name: "quote signature", Code: CodeSignature, Source: fromCertificate, Section: dcapQuote,
		Advice: "the quote was changed on its way: treat the host as hostile until it is explained",
	},
	tdxHardware: {
		Name: "genuine or simulated hardware", Code: CodeChain, Source: fromPolicy,
		Advice: "simulated guests are for demonstrations: use a policy for them, and none of it for data",
	},
	tdxSigner: {
		Name: "certificate that signs the collateral", Code: CodeCollateral, Source: fromCollateral, Section: pckProfile,
		Advice: "fetch TCB info and QE identity again, with their issuer chains",
	},
	tdxInfo: {
		Name: "TCB info", Code: CodeCollateral, Source: fromCollateral, Section: pcsTCBInfo,
		Advice: "fetch or import Intel's current TCB info for this platform's FMSPC",
	},
	tdxInfoPlatform: {
		Name: "TCB info is of this platform", Code: CodeCollateral, Source: fromCollateral, Section: pcsTCBInfo,
		Advice: "import the TCB info that Intel publishes for this FMSPC and PCE-ID",
	},
	tdxQE: {
		Name: "identity of the quoting enclave", Code: CodeCollateral, Source: fromCollateral, Section: pcsQE,
		Advice: "fetch or import Intel's current identity of the TD quoting enclave",
	},
	tdxQESigner: {
		Name: "signer of the quoting enclave", Code: CodeQE, Source: fromCollateral, Section: pcsQE,
		Advice: "use Intel's quoting enclave on the host",
	},
	tdxQEProduct: {
		Name: "product of the quoting enclave", Code: CodeQE, Source: fromCollateral, Section: pcsQE,
		Advice: "use Intel's TD quoting enclave on the host",
	},
	tdxQEMisc: {
		Name: "MISCSELECT of the quoting enclave", Code: CodeQE, Source: fromCollateral, Section: pcsQE,
		Advice: "use Intel's quoting enclave on the host",
	},
	tdxQEAttributes: {
		Name: "attributes of the quoting enclave", Code: CodeQE, Source: fromCollateral, Section: pcsQE,
		Advice: "use Intel's production quoting enclave on the host, not a debug one",
	},
	tdxQELevel: {
		Name: "TCB level of the quoting enclave", Code: CodeQE, Source: fromCollateral, Section: pcsQE,
		Advice: "update the DCAP packages of the host",
	},
	tdxSeamSigner: {
		Name: "signer of the TDX module", Code: CodeModule, Source: fromCode, Section: qvlModule,
		Advice: "load Intel's TDX module on the host",
	},
	tdxSeamAttributes: {
		Name: "attributes of the TDX module", Code: CodeModule, Source: fromCode, Section: qvlModule,
		Advice: "load Intel's production TDX module on the host",
	},
	tdxModule: {
		Name: "TCB level of the TDX module", Code: CodeModule, Source: fromCollateral, Section: qvlModule,
		Advice: "update the TDX module of the host",
	},
	tdxLevel: {
		Name: "TCB level of the platform", Code: CodeTCB, Source: fromCollateral, Section: qvlLevel,
		Advice: "the platform is older than the oldest level that Intel still lists: " + updateHost,
	},
	tdxModuleNow: {
		Name: "TCB level of the running TDX module", Code: CodeModule, Source: fromCollateral, Section: qvlRelaunch,
		Advice: "update the TDX module of the host",
	},
	tdxLevelNow: {
		Name: "TCB level of the running platform", Code: CodeTCB, Source: fromCollateral, Section: qvlRelaunch,
		Advice: updateHost,
	},
	tdxTCBRevoked: {
		Name: "TCB not revoked", Code: CodeRevoked, Source: fromCode, Section: qvlRelaunch,
		Advice: "no policy admits a revoked TCB: take the host out of service, then " + updateHost,
	},
	tdxDebug: {
		Name: "debugging is off", Code: CodeDebug, Source: fromCode, Section: moduleAttr,
		Advice: "no policy admits a debug guest: start the server again without debugging",
	},
	tdxMigratable: {
		Name: "migration is off", Code: CodeMigration, Source: fromCode, Section: moduleAttr,
		Advice: "no policy admits a guest that can be migrated: start the server again without migration",
	},
	tdxKnownAttributes: {
		Name: "attributes are known", Code: CodeAttributes, Source: fromCode, Section: moduleAttr,
		Advice: "the host sets an attribute that this program does not know; update this program before the TDX module",
	},
	tdxKnownFeatures: {
		Name: "processor features are known", Code: CodeAttributes, Source: fromCode, Section: moduleXFAM,
		Advice: "the host gives the guest a feature that this program does not know; update this program before the TDX module",
	},
	tdxServiceTD: {
		Name: "service TD", Code: CodeServiceTD, Source: fromPolicy, Section: moduleReport,
		Advice: "start the server without a service TD, or list its measurement in the policy if it is yours",
	},
	tdxAdmitted: {
		Name: "policy for TDX", Code: CodePolicy, Source: fromPolicy,
		Advice: "the policy does not speak of TDX: add its part, or use hardware that the policy names",
	},
	tdxMRTD: {
		Name: "launch measurement", Code: CodeMeasurement, Source: fromPolicy, Section: dcapBody,
		Advice: "compare the firmware with what the workspace was built for; rebuild it if it was changed on purpose",
	},
	tdxReportData: {
		Name: "report data", Code: CodeReportData, Source: fromPolicy, Section: dcapBody,
		Advice: "let the guest answer the challenge that it was given; a repeated answer is a replay",
	},
	tdxFormAllowed: {
		Name: "quote form allowed", Code: CodeVersion, Source: fromPolicy, Section: dcapQuote,
		Advice: "name this form of the quote in the policy if the host's software was changed on purpose",
	},
	tdxAttributes: {
		Name: "attributes", Code: CodeAttributes, Source: fromPolicy, Section: moduleAttr,
		Advice: "start the server with the attributes that the policy names",
	},
	tdxFeatures: {
		Name: "processor features", Code: CodeAttributes, Source: fromPolicy, Section: moduleXFAM,
		Advice: "start the server with the processor features that the policy names",
	},
	tdxConfigID: {
		Name: "MRCONFIGID", Code: CodeHostData, Source: fromPolicy, Section: moduleReport,
		Advice: "start the server with the configuration id of the policy; Nova gives none",
	},
	tdxOwner: {
		Name: "MROWNER", Code: CodeIDBlock, Source: fromPolicy, Section: moduleReport,
		Advice: "start the server with the owner of the policy; Nova gives none",
	},
	tdxOwnerConfig: {
		Name: "MROWNERCONFIG", Code: CodeIDBlock, Source: fromPolicy, Section: moduleReport,
		Advice: "start the server with the owner's configuration of the policy; Nova gives none",
	},
	tdxEventLog: {
		Name: "event log", Code: CodeEventLog, Source: fromCode, Section: ghciRTMR,
		Advice: "send the CCEL event log of the guest that was quoted, whole and unchanged",
	},
	tdxRTMR0: {
		Name: "RTMR0", Code: CodeRTMR, Source: fromPolicy, Section: ghciRTMR,
		Advice: "compare the virtual machine's configuration (memory, processors, ACPI tables, boot variables) with the policy's",
	},
	tdxRTMR1: {
		Name: "RTMR1", Code: CodeRTMR, Source: fromPolicy, Section: ghciRTMR,
		Advice: "compare the kernel and its loader with those of the policy",
	},
	tdxRTMR2: {
		Name: "RTMR2", Code: CodeRTMR, Source: fromPolicy, Section: ghciRTMR,
		Advice: "compare the command line and the initrd with those of the policy",
	},
	tdxRTMR3: {
		Name: "RTMR3", Code: CodeRTMR, Source: fromPolicy, Section: ghciRTMR,
		Advice: "compare what the guest measured at run time with the policy",
	},
	tdxCommandLine: {
		Name: "measured command line", Code: CodeRTMR, Source: fromPolicy, Section: stubMeasure,
		Advice: "the guest was started with another command line: for another workspace, or by somebody else",
	},
	tdxInitrd: {
		Name: "measured initrd", Code: CodeRTMR, Source: fromPolicy, Section: stubMeasure,
		Advice: "the guest was started with another initrd: rebuild the workspace if it was changed on purpose",
	},
	tdxRegistered: {
		Name: "registered platform", Code: CodeChip, Source: fromPolicy, Section: pckProfile,
		Advice: "register the machine if it is yours; if it is not, somebody else's machine answered",
	},
	tdxStatus: {
		Name: "TCB status", Code: CodeTCBStatus, Source: fromPolicy, Section: qvlRelaunch,
		Advice: updateHost + "; the advisories name what is open until then",
	},
	tdxEvaluation: {
		Name: "TCB evaluation data number", Code: CodeTCBStatus, Source: fromPolicy, Section: pcsTCBInfo,
		Advice: "fetch TCB info and QE identity of the policy's evaluation data number or a later one",
	},
}

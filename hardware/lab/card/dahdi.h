/* The part of the DAHDI user/kernel interface that the card answers: numbers and layouts as in
   <dahdi/user.h>, declared anew so that the lab builds without the driver's headers. */
#ifndef DAHDI_H
#define DAHDI_H

#include <stdint.h>
#include <sys/ioctl.h>

#define DAHDI_CODE 0xDA
/* read()/write() answer this errno when an event waits for GETEVENT */
#define DAHDI_ELAST 500

enum sig {
	SIG_FXSLS = 0x2001, SIG_FXSGS = 0x2002, SIG_FXSKS = 0x2004,
	SIG_FXOLS = 0x1008, SIG_FXOGS = 0x1010, SIG_FXOKS = 0x1020,
	SIG_EM = 0x40, SIG_CLEAR = 0x80, SIG_SF = 0x4000,
};

enum hook { HOOK_ON, HOOK_OFF, HOOK_WINK, HOOK_FLASH, HOOK_START, HOOK_RING, HOOK_RINGOFF };

enum event {
	EV_NONE, EV_ONHOOK, EV_RINGOFFHOOK, EV_WINKFLASH, EV_ALARM, EV_NOALARM, EV_ABORT, EV_OVERRUN,
	EV_BADFCS, EV_DIALCOMPLETE, EV_RINGERON, EV_RINGEROFF, EV_HOOKCOMPLETE, EV_BITSCHANGED,
	EV_PULSE_START, EV_TIMER_EXPIRED, EV_TIMER_PING, EV_POLARITY, EV_RINGBEGIN, EV_EC_DISABLED,
	EV_REMOVED, EV_READ_OVERRUN = 29, EV_WRITE_UNDERRUN = 30,
	EV_PULSEDIGIT = 1 << 16, EV_DTMFDOWN = 1 << 17, EV_DTMFUP = 1 << 18,
};

enum { ALARM_RED = 8 };
enum { FLUSH_READ = 1, FLUSH_WRITE = 2, FLUSH_EVENT = 4 };
enum { MUX_READ = 1, MUX_WRITE = 2, MUX_WRITEEMPTY = 4, MUX_SIGEVENT = 8, MUX_NOWAIT = 256 };
enum { POLICY_IMMEDIATE, POLICY_WHEN_FULL, POLICY_HALF_FULL };
enum { LAW_DEFAULT, LAW_MU, LAW_A };
enum { CONF_NORMAL, CONF_MONITOR, CONF_MONITORTX, CONF_MONITORBOTH };
enum { DIAL_APPEND = 1, DIAL_REPLACE, DIAL_CANCEL };
enum { MAX_CADENCE = 16, MAX_DIAL = 256, MAX_TONE = 16 };
#define RETURN_MASTER 0x40000000

struct dahdi_params {
	int channo, spanno, chanpos, sigtype, sigcap, rxisoffhook, rxbits, txbits, txhooksig, rxhooksig,
		curlaw, idlebits;
	char name[40];
	int prewink, preflash, wink, flash, start, rxwink, rxflash, debounce, pulsebreak, pulsemake,
		pulseafter;
	uint32_t alarms;
};

struct dahdi_spaninfo {
	int spanno;
	char name[20], desc[40];
	int alarms, txlevel, rxlevel, bpv, crc4, ebit, fas;
	uint32_t fe, cv, be, prbs, errsec;
	int irqmisses, syncsrc, numchans, totalchans, totalspans, lbo, lineconfig;
	char lboname[40], location[40], manufacturer[40], devicetype[40];
	int irq, linecompat;
	char spantype[6];
} __attribute__((packed));

struct dahdi_spaninfo_v1 {
	int spanno;
	char name[20], desc[40];
	int alarms, txlevel, rxlevel, bpv, crc4, ebit, fas;
	int irqmisses, syncsrc, numchans, totalchans, totalspans, lbo, lineconfig;
	char lboname[40], location[40], manufacturer[40], devicetype[40];
	int irq, linecompat;
	char spantype[6];
};

struct dahdi_conf { int chan, confno, mode; };
struct dahdi_gains { int chan; uint8_t rx[256], tx[256]; };
struct dahdi_lineconfig { int span; char name[20]; int lbo, lineconfig, sync; };
struct dahdi_chanconfig { int chan; char name[40]; int sigtype, deflaw, master, idlebits; char netdev[16]; };
struct dahdi_zone { int count, zone, cadence[MAX_CADENCE]; char name[40]; };
struct dahdi_tonedef { int tone, next, samples, shift, fac1, init21, init31, fac2, init22, init32, modulate; };
struct dahdi_bufinfo { int txpolicy, rxpolicy, numbufs, bufsize, readbufs, writebufs; };
struct dahdi_dialparams { int mfv1, dtmf, mfr2, reserved[3]; };
struct dahdi_dial { int op; char digits[MAX_DIAL]; };
struct dahdi_version { char version[80], echo_canceller[80]; };
struct dahdi_echocan { int chan; char name[16]; };
struct dahdi_hwgain { int32_t tenth_db; uint32_t tx : 1; };
struct dahdi_stats { int tip, ring, battery; };

#define D_R(nr, type) _IOR(DAHDI_CODE, nr, type)
#define D_W(nr, type) _IOW(DAHDI_CODE, nr, type)
#define D_WR(nr, type) _IOWR(DAHDI_CODE, nr, type)
enum {
	D_GET_BLOCKSIZE = 1, D_FLUSH = 3, D_SYNC, D_PARAMS, D_HOOK = 7, D_GETEVENT, D_IOMUX, D_SPANSTAT,
	D_MAINT, D_CONF_V1, D_CONF, D_GAINS = 16, D_SPANCONFIG = 18, D_CHANCONFIG, D_CONFMUTE, D_SENDTONE,
	D_TONEZONE, D_DEFAULTZONE = 24, D_LOADZONE, D_FREEZONE, D_BUFINFO, D_DIALPARAMS = 29, D_DIAL = 31,
	D_AUDIOMODE, D_ECHOCANCEL, D_CHANNO, D_DIALING, D_SPECIFY = 38, D_SETLAW, D_SETLINEAR,
	D_SETCADENCE = 42, D_BITS, D_CHANDIAG, D_TIMERCONFIG = 47, D_TIMERACK, D_GETCONFMUTE, D_ECHOTRAIN,
	D_ONHOOKTRANSFER, D_TIMERPING, D_TIMERPONG, D_GETVERSION = 57, D_ATTACH_ECHOCAN = 59,
	D_WCTDM_STATS, D_SET_HWGAIN = 86, D_SETPOLARITY = 92, D_VMWI = 94, D_VMWI_CONFIG, D_STARTUP = 99,
	D_SHUTDOWN, D_HDLC_RATE, D_ECHOCANCEL_FAX = 102, D_BUFFER_EVENTS = 105,
};
#endif

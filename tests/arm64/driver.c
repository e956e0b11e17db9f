/* Runs every kernel of gateway/_codecs on fixed input and writes what comes out; runs the engine.
 *
 *   driver DIRECTORY [DIRECTORY_OF_G722_VECTORS]
 *
 * DIRECTORY/exact-*: integer arithmetic, the same on every machine to the last bit.
 * DIRECTORY/close-*: 16-bit samples computed in floating point, the same within rounding.
 * DIRECTORY/said: what was decoded, in words.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine_impl.h"

enum { FRAMES = 100, FRAME = 320 };

static const char *directory;
static FILE *said;

static FILE *output(const char *name)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    FILE *file = fopen(path, "wb");
    if (!file) {
        perror(path);
        exit(2);
    }
    return file;
}

static uint32_t seed = 1;

static int32_t noise(int32_t peak) /* Numerical Recipes' generator; integer, so the same anywhere */
{
    seed = seed * 1664525u + 1013904223u;
    return (int32_t)(seed >> 8) % (2 * peak + 1) - peak;
}

static void sound(int16_t *pcm, int32_t n, int32_t kind)
{
    for (int32_t i = 0; i < n; i++) {
        int32_t v = kind % 4 == 0   ? noise(32767)
                    : kind % 4 == 1 ? ((i / (3 + kind)) & 1 ? 30000 : -30000)
                    : kind % 4 == 2 ? (i * (37 + kind) % 4001 - 2000) * 12
                                    : noise(400);
        pcm[i] = (int16_t)v;
    }
}

static void g711(void)
{
    static int16_t linear[65536], back[65536];
    static uint8_t coded[65536];
    FILE *file = output("exact-g711");
    for (int32_t i = 0; i < 65536; i++)
        linear[i] = (int16_t)(i - 32768);
    cp_ulaw_encode(linear, coded, 65536);
    fwrite(coded, 1, 65536, file);
    cp_ulaw_decode(coded, back, 65536);
    fwrite(back, 2, 65536, file);
    cp_alaw_encode(linear, coded, 65536);
    fwrite(coded, 1, 65536, file);
    cp_alaw_decode(coded, back, 65536);
    fwrite(back, 2, 65536, file);
    fclose(file);
}

static void g722(void)
{
    static int16_t pcm[CP_LANES][FRAME], heard[CP_LANES][FRAME];
    static uint8_t coded[CP_LANES][FRAME / 2];
    const int16_t *in[CP_LANES];
    uint8_t *payload[CP_LANES];
    const uint8_t *received[CP_LANES];
    int16_t *out[CP_LANES];
    void *encoder = aligned_alloc(CP_ALIGN, (cp_g722_64.encoder_bytes + 63) / 64 * 64);
    void *decoder = aligned_alloc(CP_ALIGN, (cp_g722_64.decoder_bytes + 63) / 64 * 64);
    FILE *file = output("exact-g722");
    cp_g722_select(0);
    cp_g722_64.init_encoder(encoder, ~0u);
    cp_g722_64.init_decoder(decoder, ~0u);
    for (int32_t frame = 0; frame < FRAMES; frame++) {
        uint32_t mask = frame % 5 ? ~0u : 0x5a5a00ffu; /* some lanes have no frame */
        for (int32_t lane = 0; lane < CP_LANES; lane++) {
            sound(pcm[lane], FRAME, lane);
            in[lane] = pcm[lane];
            received[lane] = payload[lane] = coded[lane];
            out[lane] = heard[lane];
        }
        cp_g722_64.encode(encoder, in, payload, mask, FRAME);
        if (frame % 7 == 0) /* damaged on the way */
            for (int32_t i = 0; i < FRAME / 2; i++)
                coded[frame % CP_LANES][i] ^= (uint8_t)noise(127);
        cp_g722_64.decode(decoder, received, out, mask, FRAME);
        fwrite(coded, 1, sizeof coded, file);
        fwrite(heard, 1, sizeof heard, file);
    }
    fclose(file);
    free(encoder);
    free(decoder);
}

/* ITU-T G.722 Appendix II: the encoder's sequences and the code words they must become. */
static int vectors(const char *folder)
{
    static const char *const pairs[][2] = {{"bt1c1.xmt", "bt2r1.cod"}, {"bt1c2.xmt", "bt2r2.cod"}};
    int bad = 0;
    for (int i = 0; i < 2; i++) {
        static uint16_t in[40000], expected[40000];
        char path[4096];
        snprintf(path, sizeof path, "%s/%s", folder, pairs[i][0]);
        FILE *a = fopen(path, "rb");
        snprintf(path, sizeof path, "%s/%s", folder, pairs[i][1]);
        FILE *b = fopen(path, "rb");
        if (!a || !b) {
            fprintf(stderr, "no vector %s\n", path);
            return 1;
        }
        size_t n = fread(in, 2, 40000, a);
        size_t m = fread(expected, 2, 40000, b);
        fclose(a);
        fclose(b);
        void *group = aligned_alloc(CP_ALIGN, (cp_g722_64.encoder_bytes + 63) / 64 * 64);
        size_t count = 0, first = 0;
        while (first < n && in[first] & 1) /* words with this bit reset the coder */
            first++;
        cp_g722_64.init_encoder(group, ~0u);
        for (size_t at = first; at < n && at < m && !(in[at] & 1); at += 8) {
            int16_t both[16] = {0}; /* the same sample to both bands, 1 ms at a time */
            for (size_t k = 0; k < 8 && at + k < n; k++)
                both[2 * k] = both[2 * k + 1] = (int16_t)((int16_t)in[at + k] >> 1);
            const int16_t *src[CP_LANES] = {both};
            uint8_t octets[8], *out[CP_LANES] = {octets};
            cp_g722_encode_bands(group, src, out, 1, 16);
            for (size_t k = 0; k < 8 && at + k < m && !(in[at + k] & 1); k++, count++)
                bad += octets[k] != expected[at + k] >> 8;
        }
        free(group);
        printf("%s: %zu code words, %d wrong\n", pairs[i][0], count, bad);
        bad += count < 700;
    }
    return bad;
}

static void tones(void)
{
    static int16_t pcm[8000];
    static const char digits[] = "0123456789*#ABCD";
    FILE *file = output("close-dtmf");
    cp_dtmf_rx rx;
    cp_dtmf_event events[8];
    cp_dtmf_rx_init(&rx);
    fprintf(said, "dtmf ");
    for (int i = 0; digits[i]; i++) {
        cp_dtmf_tx tx;
        cp_dtmf_tx_init(&tx, digits[i], 8000, -9.0f, 2.0f);
        cp_dtmf_tx_read(&tx, pcm, 640);
        memset(pcm + 640, 0, 640 * 2);
        fwrite(pcm, 2, 1280, file);
        int32_t n = cp_dtmf_rx_push(&rx, pcm, 1280, events, 8);
        for (int32_t k = 0; k < n; k++)
            if (events[k].is_end)
                fputc(events[k].digit, said);
    }
    fputc('\n', said);
    fclose(file);

    file = output("close-tone");
    cp_tone_step busy[2] = {{.freq_hz = {480, 620}, .level_dbm0 = -13, .n_freqs = 2,
                             .duration_ms = 500}, {.duration_ms = 500}};
    cp_tone_pattern pattern = {.id = 7, .n_freqs = 2, .freq_hz = {480, 620}, .n_cadence = 2,
                               .cadence_ms = {500, 500}, .n_cycles = 2, .min_ms = 100};
    cp_tone_tx tone;
    cp_tone_rx watch;
    cp_tone_tx_init(&tone, busy, 2, 0, 8000);
    cp_tone_rx_init(&watch, &pattern, 1, -35.0f);
    for (int i = 0; i < 4; i++) {
        cp_tone_event event;
        cp_tone_tx_read(&tone, pcm, 8000);
        fwrite(pcm, 2, 8000, file);
        if (cp_tone_rx_push(&watch, pcm, 8000, &event, 1))
            fprintf(said, "tone %d in second %d\n", event.id, (int)(event.at_sample / 8000));
    }
    fclose(file);

    file = output("close-fsk");
    cp_fsk_tx modem;
    cp_fsk_rx demodulator;
    uint8_t octets[400];
    cp_fsk_tx_init(&modem, CP_FSK_V23, 8000, -12.0f);
    cp_fsk_rx_init(&demodulator, CP_FSK_V23, 8000);
    cp_fsk_tx_start(&modem, (const uint8_t *)"Crosspoint", 10, 300, 180, 10);
    int32_t n = cp_fsk_tx_read(&modem, pcm, 8000);
    fwrite(pcm, 2, (size_t)n, file);
    n = cp_fsk_rx_push(&demodulator, pcm, n, octets, 400);
    fprintf(said, "fsk %.*s\n", (int)n, octets);
    fclose(file);
}

static void paths(void)
{
    static int16_t pcm[960], slow[960], out[3][960];
    cp_resample_setup();
    static const int32_t rates[][2] = {{16000, 8000}, {8000, 16000}, {48000, 8000}, {16000, 48000}};
    FILE *file = output("close-resample");
    for (int i = 0; i < 4; i++) {
        cp_resampler r;
        cp_resampler_init(&r, rates[i][0], rates[i][1]);
        for (int frame = 0; frame < 20; frame++) {
            sound(pcm, 320, 2 + 4 * frame);
            int32_t n = rates[i][0] == 48000 ? 240 : 320;
            n = cp_resample(&r, pcm, n, slow, 960);
            fwrite(slow, 2, (size_t)n, file);
        }
    }
    fclose(file);

    file = output("close-plc");
    cp_plc plc;
    cp_plc_init(&plc, 8000);
    for (int frame = 0; frame < 60; frame++) {
        for (int i = 0; i < 160; i++) /* a saw tooth of 100 Hz */
            pcm[i] = (int16_t)(((frame * 160 + i) % 80 - 40) * 200);
        if (frame % 9 < 7)
            cp_plc_good(&plc, pcm, 160);
        else
            cp_plc_lost(&plc, pcm, 160);
        fwrite(pcm, 2, 160, file);
    }
    fclose(file);

    file = output("close-mix");
    for (int frame = 0; frame < 20; frame++) {
        static int16_t in[3][320];
        const int16_t *src[3] = {in[0], in[1], in[2]};
        int16_t *dst[3] = {out[0], out[1], out[2]};
        float gain[3] = {1.0f, 0.5f, 1.9952623f};
        for (int i = 0; i < 3; i++)
            sound(in[i], 320, frame + i);
        cp_mix_minus_one(src, gain, dst, 3, 320);
        for (int i = 0; i < 3; i++)
            fwrite(out[i], 2, 320, file);
    }
    fclose(file);
}

static int engine(void) /* the real-time thread runs, ticks and ends */
{
    ce_engine *e = ce_engine_new(16, 0, "arm64");
    ce_stream *stream = ce_stream_new(e, 1, CE_NULL);
    ce_command open = {.type = CE_CMD_OPEN, .s = stream}, close = {.type = CE_CMD_CLOSE, .s = stream};
    ce_engine_stats stats;
    if (ce_engine_start(e) || ce_engine_push(e, &open))
        return 1;
    usleep(300000);
    ce_engine_stats_get(e, &stats);
    ce_engine_push(e, &close);
    for (int i = 0; i < 500 && !ce_is_set(&stream->dead); i++)
        usleep(10000);
    int bad = stats.ticks < 100 || stats.n_streams != 1 || !ce_is_set(&stream->dead);
    printf("engine: %llu ticks of 1 ms in 300 ms%s\n", (unsigned long long)stats.ticks,
           bad ? ": wrong" : "");
    ce_engine_stop(e);
    ce_stream_free(stream);
    ce_engine_free(e);
    return bad;
}

static void rtp(void)
{
    FILE *file = output("exact-rtp");
    uint8_t packet[200], report[200];
    cp_rtp_source source;
    cp_rtp_source_init(&source, 0x1234, 65530, 8000, 0);
    for (int i = 0; i < 4000; i++) {
        cp_rtp parsed;
        if (i % 2) { /* garbage */
            for (int k = 0; k < 60; k++)
                packet[k] = (uint8_t)noise(127);
        } else
            cp_rtp_header(packet, 0, i == 0, (uint16_t)(65530 + i), (uint32_t)i * 160, 0x1234);
        memset(&parsed, 0, sizeof parsed);
        int32_t code = cp_rtp_parse(packet, 60, &parsed);
        fwrite(&code, 4, 1, file);
        fwrite(packet, 1, 60, file);
        if (code == 0) {
            fwrite(&parsed.timestamp, 4, 1, file);
            fwrite(&parsed.payload_len, 4, 1, file);
            if (parsed.ssrc == 0x1234)
                cp_rtp_source_update(&source, parsed.seq, parsed.timestamp, i * 10000000LL);
        }
    }
    cp_report_block block;
    memset(&block, 0, sizeof block);
    cp_rtp_source_report(&source, &block, 50000000000LL);
    int32_t n = cp_rtcp_build_report(report, 200, 0x77, NULL, &block, 1);
    fwrite(report, 1, (size_t)n, file);
    fprintf(said, "rtcp %d packets, %d lost\n", cp_rtcp_check(report, n), block.cumulative_lost);
    fclose(file);
}

int main(int argc, char **argv)
{
    if (argc < 2)
        return 2;
    directory = argv[1];
    said = output("said");
    cp_g711_setup();
    cp_dtmf_setup();
    g711();
    g722();
    tones();
    paths();
    rtp();
    fclose(said);
    int bad = engine();
    return (argc > 2 && vectors(argv[2])) || bad;
}

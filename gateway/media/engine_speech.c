/* Speech by level, in both directions of a stream: what a voice-operated switch (VOX) needs.
 *
 * A frame counts as loud above the threshold. A received one must also be louder than the echo that
 * may come back of what was sent to the same stream lately (anti-trip): a telephone whose receiver
 * leaks into its microphone would otherwise hold a radio's own voice for its user's. The levels
 * are those that the engine measures anyway.
 */
#include "engine_impl.h"

#include <string.h>

void ce_speech_watch(ce_stream *s, const ce_speech_config *c)
{
    memset(&s->speech, 0, sizeof s->speech);
    s->speech.config = *c;
}

static void step(ce_stream *s, int sent, int loud)
{
    const ce_speech_config *c = &s->speech.config;
    ce_speech_side *d = &s->speech.side[sent];
    /* Attack leaks: speech has gaps of a frame, a click has no second frame. */
    if (d->speaking)
        d->ms = loud ? 0 : d->ms + CE_FRAME_MS;
    else
        d->ms = loud ? d->ms + CE_FRAME_MS : d->ms > CE_FRAME_MS ? d->ms - CE_FRAME_MS : 0;
    if (d->ms < (d->speaking ? c->hang_ms : c->attack_ms))
        return;
    uint64_t dropped = s->e->st.dropped_events;
    ce_post(s->e, CE_EV_SPEECH, s, !d->speaking, sent, (int32_t)c->serial, NULL, 0);
    if (s->e->st.dropped_events != dropped)
        return; /* a lost end would leave a transmitter keyed: it is told with the next frame */
    d->speaking = !d->speaking;
    d->ms = 0;
}

void ce_speech_in(ce_stream *s, double mean_square)
{
    const ce_speech *v = &s->speech;
    float echo = 0.0f;
    for (int i = 0; i < v->config.n_echo; i++)
        if (v->sent[i] > echo)
            echo = v->sent[i];
    /* A digit is no speech, neither as a tone nor as a packet. */
    int digit = s->muting || s->te_active;
    step(s, 0, !digit && mean_square > v->config.threshold &&
                   mean_square > echo * v->config.echo_ratio);
}

void ce_speech_out(ce_stream *s, double mean_square)
{
    ce_speech *v = &s->speech;
    if (v->config.n_echo) {
        v->sent[v->at] = (float)mean_square;
        v->at = (uint8_t)((v->at + 1) % v->config.n_echo);
    }
    step(s, 1, mean_square > v->config.threshold);
}

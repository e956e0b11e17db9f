/* ITU-T G.711 A-law and mu-law by table, bit-exact to the G.191 software tool library. */
#ifndef CP_G711_IMPL_H
#define CP_G711_IMPL_H
#include "codec.h"

void cp_g711_setup(void); /* fills the tables; once, before anything else */
void cp_ulaw_decode(const uint8_t *src, int16_t *out, int32_t n);
void cp_ulaw_encode(const int16_t *src, uint8_t *out, int32_t n);
void cp_alaw_decode(const uint8_t *src, int16_t *out, int32_t n);
void cp_alaw_encode(const int16_t *src, uint8_t *out, int32_t n);
void cp_ulaw_to_alaw(const uint8_t *src, uint8_t *out, int32_t n); /* decode-then-encode */
void cp_alaw_to_ulaw(const uint8_t *src, uint8_t *out, int32_t n);
extern const cp_codec cp_pcmu, cp_pcma;
#endif

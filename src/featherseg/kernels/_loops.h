/* The inner loops. _native.c includes this once per clone, with CLONE(name), TARGET and WIDE
   defined: the same text, compiled for several instruction sets. Contraction is off (no fused
   multiply-add), so that all give the same bits. */

/* Planar copies of `count` columns of one source line, from `first` on; the border is repeated. */
TARGET static void CLONE(copy_line)(const Logits *x, int row, int first, int count, float *planes) {
    const char *line = x->data + row * x->row_stride;
    for (int k = 0; k < x->classes; k++) {
        const char *source = line + k * x->class_stride;
        float *plane = planes + (ptrdiff_t)k * count;
        if (x->column_stride == (ptrdiff_t)sizeof(float) && first >= 0 && first + count <= x->width) {
            memcpy(plane, source + first * (ptrdiff_t)sizeof(float), count * sizeof(float));
            continue;
        }
        for (int i = 0; i < count; i++) {
            int column = first + i < 0 ? 0 : first + i;
            column = column < x->width ? column : x->width - 1;
            plane[i] = *(const float *)(source + column * x->column_stride);
        }
    }
}

/* Resize one source line to the tile's columns, class by class; returns 0 for values that are
   not finite. Columns are sorted by phase, so that the columns of a phase are neighbours in the
   source and no index is looked up. */
TARGET static int CLONE(stretch_phases)(const Tile *t, int classes, const float *planes, float *lines) {
    int count = t->steps + 2, bad = 0;
    for (int k = 0; k < classes; k++)
        for (int p = 0; p < t->period; p++) {
            const float *source = planes + (ptrdiff_t)k * count + 1 + t->shift[p];
            const float *keep = t->keep + p * t->steps, *share = t->share + p * t->steps;
            float *line = lines + (ptrdiff_t)k * t->width + p * t->steps;
            for (int i = 0; i < t->steps; i++) {
                float value = source[i] * keep[i] + source[i + 1] * share[i];
                line[i] = value;
                bad |= !(fabsf(value) <= FLT_MAX);
            }
        }
    return !bad;
}

TARGET static int CLONE(stretch_any)(const Tile *t, const Logits *x, int row, float *lines) {
    const char *source = x->data + row * x->row_stride;
    int bad = 0;
    for (int j = 0; j < t->width; j++) {
        const char *left = source + t->left[j] * x->column_stride;
        const char *right = t->left[j] + 1 < x->width ? left + x->column_stride : left;
        for (int k = 0; k < x->classes; k++) {
            float value = *(const float *)(left + k * x->class_stride) * t->keep[j] +
                          *(const float *)(right + k * x->class_stride) * t->share[j];
            lines[(ptrdiff_t)k * t->width + j] = value;
            bad |= !(fabsf(value) <= FLT_MAX);
        }
    }
    return !bad;
}

/* Write the class with the greatest value between two resized lines, the lowest of equals. */
TARGET static void CLONE(pick)(const float *above, const float *below, float share, int classes, int width,
                               uint8_t *mask) {
    float keep = 1.0f - share;
    for (int j = 0; j < width; j += WIDE) {
        float best[WIDE];
        int32_t which[WIDE];
        for (int l = 0; l < WIDE; l++) {
            best[l] = above[j + l] * keep + below[j + l] * share;
            which[l] = 0;
        }
        for (int k = 1; k < classes; k++) {
            const float *a = above + (ptrdiff_t)k * width + j, *b = below + (ptrdiff_t)k * width + j;
            for (int l = 0; l < WIDE; l++) {
                float value = a[l] * keep + b[l] * share;
#ifdef __aarch64__ /* NEON selects in one instruction, x86-64 takes the larger of two in one */
                int32_t later = -(int32_t)(value > best[l]);
                which[l] = (k & later) | (which[l] & ~later);
#else
                int32_t later = -(int32_t)(value > best[l]) & k;
                which[l] = later > which[l] ? later : which[l];
#endif
                best[l] = value > best[l] ? value : best[l];
            }
        }
        for (int l = 0; l < WIDE; l++) mask[j + l] = (uint8_t)which[l];
    }
}
